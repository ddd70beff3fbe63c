from __future__ import annotations

import torch

from syn2co_ray.methods.unit_vectors import unit


def test_unit_has_length_one_and_keeps_float64() -> None:
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    assert unit(x.bfloat16()).dtype == torch.float32
    assert unit(x.double()).dtype == torch.float64
    torch.testing.assert_close(unit(x.bfloat16()).norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
    assert torch.equal(unit(torch.zeros(1, 4)), torch.zeros(1, 4))
