from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from syn2co_ray.methods.draws import RowDraws
from syn2co_ray.methods.drop_path import RowDropPath, draw_drop_path, replace_drop_path
from syn2co_ray.methods.encoders import build_encoder
from syn2co_ray.spec.method import MobySpec

from ..golden_vectors import GoldenEntry, golden_entries


def layer_with(uniform: list[float], rate: float = 0.25) -> RowDropPath:
    layer = RowDropPath(rate)
    layer.uniform = torch.tensor(uniform)
    return layer


def test_drops_whole_rows_and_scales_the_others() -> None:
    x = torch.arange(1.0, 13).view(3, 2, 2)
    y = layer_with([0.1, 0.25, 0.9])(x)
    assert torch.equal(y[0], torch.zeros(2, 2))
    torch.testing.assert_close(y[1:], x[1:] / 0.75)


def test_keeps_the_expected_value() -> None:
    network = nn.Sequential(RowDropPath(0.3))
    draw_drop_path(network, "test", RowDraws(0, 0, 0, 20000, torch.device("cpu")))
    # The standard deviation of the mean is 0.0046.
    assert network(torch.ones(20000, 1)).mean() == pytest.approx(1.0, abs=0.02)


def test_is_the_identity_in_eval_mode() -> None:
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(RowDropPath(0.5).eval()(x), x)


@pytest.mark.parametrize("rows", [2, 4])
def test_without_draws_for_the_rows_it_refuses(rows: int) -> None:
    with pytest.raises(RuntimeError, match=f"no draws for these {rows} rows"):
        layer_with([0.1, 0.2, 0.3])(torch.zeros(rows, 2))


def test_replaces_every_layer_of_a_timm_model_with_its_rate() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=3, num_heads=2, drop_path_rate=0.4
    )
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    keys = list(model.state_dict())
    replace_drop_path(model)
    layers = [module for module in model.modules() if isinstance(module, RowDropPath)]
    assert [layer.rate for layer in layers] == rates
    assert len(rates) == 4
    assert not any(isinstance(module, DropPath) for module in model.modules())
    assert list(model.state_dict()) == keys


BACKBONES = {"synco_vit_small": "vit_small_patch16_224", "synco_swin_tiny": "swin_tiny_patch4_window7_224"}


@pytest.mark.parametrize("entry", golden_entries("weight_decay_*.json", "synco_.*"))
@pytest.mark.parametrize("branch", ["online", "target"])
def test_rates_rise_from_block_to_block_as_in_the_published_code(entry: GoldenEntry, branch: str) -> None:
    recorded = entry.value["drop_path"][branch]
    spec = MobySpec(framework="moby", backbone=BACKBONES[entry.name])
    encoder = build_encoder(spec, 224, max(recorded))
    blocks = [module for module in encoder.modules() if hasattr(module, "drop_path1")]
    rates = [getattr(block.drop_path1, "rate", 0.0) for block in blocks]
    assert rates == pytest.approx(recorded, abs=1e-6)
    assert [getattr(block.drop_path2, "rate", 0.0) for block in blocks] == rates


def test_layers_draw_apart() -> None:
    layers = [RowDropPath(0.5), RowDropPath(0.5)]
    draw_drop_path(nn.Sequential(*layers), "test", RowDraws(0, 0, 0, 40, torch.device("cpu")))
    first, second = (layer(torch.ones(40)) for layer in layers)
    assert not torch.equal(first, second)
