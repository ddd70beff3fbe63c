from __future__ import annotations

import math

import torch

from syn2co_ray.methods.losses import info_nce, softmax_mass, unit


def test_info_nce_equals_the_written_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    positive = torch.randn(4, generator=generator, dtype=torch.float64)
    blocks = [torch.randn(4, count, generator=generator, dtype=torch.float64) for count in (5, 1, 3)]
    losses = info_nce(positive, blocks, 0.3)
    for row in range(4):
        scores = [positive[row].item()] + [value for block in blocks for value in block[row].tolist()]
        total = sum(math.exp(score / 0.3) for score in scores)
        assert math.isclose(losses[row].item(), -math.log(math.exp(scores[0] / 0.3) / total), abs_tol=1e-12)


def test_info_nce_of_equal_logits_is_log_of_their_number() -> None:
    losses = info_nce(torch.zeros(2), [torch.zeros(2, 6), torch.zeros(2, 1)], 0.2)
    torch.testing.assert_close(losses, torch.full((2,), math.log(8)))


def test_info_nce_under_autocast_is_computed_in_float32() -> None:
    positive, block = torch.tensor([0.9]), torch.linspace(-0.5, 0.5, 1000).unsqueeze(0)
    expected = info_nce(positive, [block], 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(positive, [block], 0.2)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_unit_has_length_one_and_keeps_float64() -> None:
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    assert unit(x.bfloat16()).dtype == torch.float32
    assert unit(x.double()).dtype == torch.float64
    torch.testing.assert_close(unit(x.bfloat16()).norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
    assert torch.equal(unit(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_softmax_masses_and_positive_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(1)
    positive = torch.randn(5, generator=generator)
    blocks = [torch.randn(5, count, generator=generator) for count in (8, 3)]
    loss = info_nce(positive, blocks, 0.2)
    masses = [softmax_mass(loss, positive, block, 0.2) for block in blocks]
    torch.testing.assert_close(sum(masses) + (-loss).exp().mean(), torch.tensor(1.0))
