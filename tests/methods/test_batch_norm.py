"""On one rank; test_ranks.py has two."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from syn2co_ray.methods.batch_norm import GlobalBatchNorm, replace_batch_norm
from syn2co_ray.methods.heads import mlp_head
from syn2co_ray.spec.errors import SpecError


def random_input(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nn.BatchNorm1d, (9, 4)), (nn.BatchNorm2d, (5, 4, 3, 3)), (BatchNormAct2d, (5, 4, 3, 3))],
)
def test_replacement_computes_the_same(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    plain, network = nn.Sequential(kind(4)), nn.Sequential(kind(4))
    network.load_state_dict(plain.state_dict())
    replace_batch_norm(network, "test")
    assert isinstance(network[0], GlobalBatchNorm)
    assert list(network.state_dict()) == list(plain.state_dict())
    x = random_input(*shape)
    for training in (True, True, False):
        assert torch.equal(network.train(training)(x), plain.train(training)(x))
    for key, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)


def test_unknown_batch_norm_is_refused() -> None:
    class Odd(nn.BatchNorm2d):
        pass

    with pytest.raises(SpecError, match="batch norm of type Odd"):
        replace_batch_norm(nn.Sequential(Odd(3)), "method.backbone")


def test_head_is_two_layers_with_batch_norm_between() -> None:
    head = mlp_head(7, 11, 3)
    linear_in, norm, _, linear_out = head
    x = random_input(6, 7)
    hidden = nn.functional.batch_norm(linear_in(x), None, None, training=True)
    torch.testing.assert_close(head(x), linear_out(hidden.relu()))
    assert isinstance(norm, GlobalBatchNorm)
