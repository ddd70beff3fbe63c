"""What every framework with two branches does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn

from syn2co_ray.methods import Method, StepContext, build_method
from syn2co_ray.methods.drop_path import RowDropPath
from syn2co_ray.methods.moco import MoCo
from syn2co_ray.methods.moco_v3 import MoCoV3
from syn2co_ray.spec.errors import SpecError, Syn2coError
from syn2co_ray.spec.method import MethodSpec
from syn2co_ray.spec.negatives import NEGATIVE_KINDS

MakeStep = Callable[..., StepContext]

VIT = {
    "backbone": "vit_tiny_patch16_224",
    "patch_size": 8,
    "backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
}
SYNCO = {"framework": "synco", "queue_size_features": 40, "output_features": 12}
SPECS: dict[str, dict[str, Any]] = {
    "moco_v2": SYNCO | {"framework": "moco_v2"},
    "synco": SYNCO | {"negatives": {"hardest": 8, **dict.fromkeys(NEGATIVE_KINDS, 3)}},
    "moco_v3": {"framework": "moco_v3", "hidden_features": 24, "output_features": 12},
    "byol": {"framework": "byol", "hidden_features": 24, "output_features": 12},
    "dino": {"framework": "dino", "hidden_features": 24, "bottleneck_features": 12, "prototypes": 30},
}
DROP_PATHS = {"drop_path_online": 0.3, "drop_path_target": 0.2}
every_framework = pytest.mark.parametrize("name", SPECS)


def make(name: str, seed: int = 0, **changes: Any) -> Method:
    spec: Any = TypeAdapter(MethodSpec).validate_python(VIT | SPECS[name] | changes)
    return build_method(spec, 32, seed)


@every_framework
def test_gradient_reaches_the_online_branch_only(name: str, views: list[Tensor], step_at: MakeStep) -> None:
    method = make(name)
    output = method(views, step_at())
    output.loss.backward()
    frozen = (
        {"encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"} if name == "moco_v3" else set()
    )
    for key, parameter in method.named_parameters():
        trained = not key.startswith("target_") and key not in frozen
        assert parameter.requires_grad == trained, key
        assert (parameter.grad is not None) == trained, key
    assert output.loss.item() == pytest.approx(sum(part.item() for part in output.parts.values()))
    for figure in (output.parts | output.stats).values():
        assert figure.ndim == 0
        assert not figure.requires_grad
    assert output.pair is not None
    for side in output.pair:
        torch.testing.assert_close(side.norm(dim=1), torch.ones(6))
        assert not side.requires_grad


@every_framework
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bf16_autocast_keeps_the_loss_in_float32(
    name: str, device: str, views: list[Tensor], step_at: MakeStep
) -> None:
    views = [view.to(device) for view in views]
    method = make(name).to(device)  # before autocast, which keeps casts of weights that are drawn again
    with torch.autocast(device, torch.bfloat16):
        half = method(views, step_at()).loss
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(make(name).to(device)(views, step_at()).loss.item(), rel=0.03)


def test_moco_v3_compares_in_float32_under_autocast(views: list[Tensor], step_at: MakeStep) -> None:
    """The loss is that of the q_1 and k_2 that it hands out, to float32's rounding."""
    method = make("moco_v3")
    with torch.autocast("cpu", torch.bfloat16):
        output = method(views, step_at())
    assert output.pair is not None
    q, k = output.pair
    expected = 2 * 0.2 * F.cross_entropy(q @ k.T / 0.2, torch.arange(len(q)))
    torch.testing.assert_close(output.parts["view_1"], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [*SPECS, "moby"])
def test_each_encoder_has_the_drop_path_of_its_side(name: str) -> None:
    fields = VIT | SPECS.get(name, {"framework": name, "queue_size_features": 40}) | DROP_PATHS
    spec: Any = TypeAdapter(MethodSpec).validate_python(fields)
    method = build_method(spec, 32, 0)
    for encoder, rate in ((method.encoder, 0.3), (method.target_encoder, 0.2)):
        rates = [layer.rate for layer in encoder.modules() if isinstance(layer, RowDropPath)]
        assert max(rates) == pytest.approx(rate)


@every_framework
def test_a_saved_state_continues_identically(name: str, views: list[Tensor], step_at: MakeStep) -> None:
    def train(method: Method, steps: range) -> list[float]:
        losses = []
        for number in steps:
            method.zero_grad()
            output = method(views, step_at(number))
            output.loss.backward()
            with torch.no_grad():
                for parameter in method.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(parameter.grad, alpha=0.05)
            method.commit(step_at(number))
            losses.append(output.loss.item())
        return losses

    method, resumed = make(name), make(name, seed=9)
    train(method, range(2))
    resumed.load_state_dict({key: value.clone() for key, value in method.state_dict().items()})
    assert train(resumed, range(2, 4)) == train(method, range(2, 4))


@every_framework
def test_a_repeated_step_moves_the_target_once(name: str, views: list[Tensor], step_at: MakeStep) -> None:
    method = make(name, momentum=0.5)
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(0.1)
    losses = [method(views, step_at(1)).loss.item() for _ in range(2)]
    assert losses[0] == losses[1]


@every_framework
def test_other_numbers_of_views_are_refused(name: str, views: list[Tensor], step_at: MakeStep) -> None:
    with pytest.raises(Syn2coError, match="1 views"):
        make(name)(views[:1], step_at())


def test_momentum_of_moco_stays_and_that_of_the_others_rises(views: list[Tensor], step_at: MakeStep) -> None:
    at_the_middle = {name: make(name, momentum=0.9)(views, step_at(50)).stats["momentum"] for name in SPECS}
    assert at_the_middle["moco_v2"].item() == at_the_middle["synco"].item() == pytest.approx(0.9)
    assert at_the_middle["moco_v3"].item() == at_the_middle["byol"].item() == pytest.approx(0.95)


def test_projector_of_moco_v2_has_two_layers_without_batch_norm_as_wide_as_the_feature() -> None:
    method = make("moco_v2")
    assert isinstance(method, MoCo)
    linear = [layer for layer in method.projector if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(32, 32), (32, 12)]
    assert len(method.projector) == 3
    assert isinstance(method.predictor, nn.Identity)


def test_loss_of_moco_v3_written_out(views: list[Tensor], step_at: MakeStep) -> None:
    """At the first step the target equals the online branch without its predictor."""
    method = make("moco_v3", drop_path_online=0.0)
    assert isinstance(method, MoCoV3)
    output = method(views, step_at())
    with torch.no_grad():
        projections = [method.projector(method.encoder(view)) for view in views]
        q = [F.normalize(method.predictor(projection)) for projection in projections]
        k = [F.normalize(projection) for projection in projections]
    for own, other in ((0, 1), (1, 0)):
        expected = 2 * 0.2 * F.cross_entropy(q[own] @ k[other].T / 0.2, torch.arange(6))
        torch.testing.assert_close(output.parts[f"view_{own + 1}"], expected)
    assert 0 <= output.stats["negatives/batch/harder"] <= 1


def test_heads_of_moco_v3_have_three_and_two_layers_and_end_in_a_plain_batch_norm() -> None:
    method = make("moco_v3")
    assert isinstance(method, MoCoV3)
    for head, layers in ((method.projector, 3), (method.predictor, 2)):
        assert isinstance(head, nn.Sequential)
        assert sum(isinstance(layer, nn.Linear) for layer in head) == layers
        assert list(head[-1].parameters()) == []


def test_patch_projection_is_frozen_where_there_is_one() -> None:
    assert all(p.requires_grad for p in make("moco_v3", freeze_patch_projection=False).encoder.parameters())
    resnet = {"backbone": "test_resnet", "patch_size": None, "backbone_options": {}}
    assert all(p.requires_grad for p in make("moco_v3", **resnet).encoder.parameters())
    with pytest.raises(SpecError, match="test_resnet has no patch projection"):
        make("moco_v3", **resnet, freeze_patch_projection=True)


def test_a_vit_of_moco_v3_starts_as_published() -> None:
    """Uniform, as wide as inputs and outputs say; of q, k and v each on its own; no biases."""
    method = make("moco_v3")
    assert isinstance(method, MoCoV3)
    encoder = method.encoder
    sizes = {
        "patch_embed.proj": 3 * 8 * 8 + 32,
        "blocks.0.attn.qkv": 32 + 32,
        "blocks.0.mlp.fc1": 32 + 4 * 32,
    }
    for name, size in sizes.items():
        layer, widest = encoder.get_submodule(name), (6 / size) ** 0.5
        assert 0.98 * widest < layer.weight.abs().max() <= widest
        assert not layer.bias.any()
    assert encoder.cls_token.abs().max() < 1e-5
    for name, value in encoder.state_dict().items():
        assert torch.equal(method.target_encoder.state_dict()[name], value)
    assert make("byol").encoder.patch_embed.proj.bias.any()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "moco_v2",
            {"negatives": {"hardest": 4, "mixup": 2}},
            "given with framework moco_v2; allowed: only with synco",
        ),
        ("synco", {"negatives": None}, "synco without a synthesized negative"),
        (
            "synco",
            {"negatives": {"hardest": 41, "mixup": 2}},
            "41 of a queue of 40; allowed: at most",
        ),
    ],
)
def test_negatives_that_do_not_fit_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make(name, **changes)
