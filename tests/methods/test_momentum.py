from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from syn2co_ray.methods.momentum import MomentumUpdate, momentum_at


@pytest.mark.golden("schedules_public.npz")
def test_schedule_equals_published_code(golden: Any) -> None:
    names = [key for key in golden.keys() if re.fullmatch(r"momentum_.*_m[\d.]+", key)]
    assert names
    for name in names:
        base, total = float(name.rpartition("_m")[2]), int(golden.number(f"{name}_K"))
        values = golden.numbers(name)
        assert len(values) == total + 1
        for step, value in enumerate(values):
            assert math.isclose(momentum_at(step, total, base), value, rel_tol=0, abs_tol=1e-14)


def test_schedule_rises_from_base_to_one_and_stays() -> None:
    values = [momentum_at(step, 50, 0.99) for step in range(60)]
    assert values[0] == pytest.approx(0.99, abs=1e-15)
    assert values == sorted(values)
    assert values[50:] == [1.0] * 10


def parameters(value: float) -> list[torch.Tensor]:
    return [torch.full((2, 3), value), torch.full((4,), value)]


def test_update_is_the_moving_average() -> None:
    target, online = parameters(1.0), parameters(3.0)
    momentum = MomentumUpdate(0.75).advance(target, online, step=0, total_steps=10)
    assert momentum == 0.75
    for tensor in target:
        torch.testing.assert_close(tensor, torch.full_like(tensor, 0.75 * 1 + 0.25 * 3))
    assert all(torch.equal(tensor, torch.full_like(tensor, 3.0)) for tensor in online)


def test_a_step_is_applied_once_also_after_loading() -> None:
    target, online, update = parameters(1.0), parameters(3.0), MomentumUpdate(0.5)
    update.advance(target, online, 4, 10)
    moved = target[0].clone()
    update.advance(target, online, 4, 10)
    assert torch.equal(target[0], moved)

    loaded = MomentumUpdate(0.5)
    loaded.advance(parameters(0.0), online, 0, 10)
    loaded.load_state_dict(update.state_dict())
    loaded.advance(target, online, 4, 10)
    assert torch.equal(target[0], moved)
    loaded.advance(target, online, 5, 10)
    assert (target[0] > moved).all()


def test_equal_networks_stay_equal() -> None:
    online = [torch.randn(50, generator=torch.Generator().manual_seed(0))]
    target, update = [online[0].clone()], MomentumUpdate(0.99)
    for step in range(20):
        update.advance(target, online, step, 20)
    assert torch.equal(target[0], online[0])
