from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from syn2co_ray.data.plan import Plan
from syn2co_ray.methods.queue import FeatureQueue


def make_queue(size: int = 5, width: int = 3) -> FeatureQueue:
    return FeatureQueue(size, width, Generator().manual_seed(0))


def keys(rows: int, seed: int = 1, width: int = 3) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=Generator().manual_seed(seed)))


@pytest.mark.golden("queue_world*.npz")
def test_equals_published_code(golden: Any) -> None:
    recorded = golden.tensor("keys", torch.float32)
    steps, world, _, rows, width = recorded.shape
    for number in (1, 2):
        queue = FeatureQueue(len(golden.tensor(f"queue{number}_0")), width, Generator())
        queue.fill(golden.tensor(f"queue{number}_0", torch.float32))
        for step in range(steps):
            queue.enqueue(recorded[step, :, number - 1].reshape(world * rows, width))
            assert torch.equal(queue.features, golden.tensor(f"queue{number}_after{step + 1}", torch.float32))
            assert int(queue.pointer) == golden.number(f"ptr_after{step + 1}")


@pytest.mark.golden("queue_world*.npz")
def test_momentum_rises_over_as_many_steps_as_published(golden: Any) -> None:
    """64 images in batches of 4 a rank, 3 epochs: a run of two ranks has half the steps."""
    _, world, *_ = golden.tensor("keys").shape
    plan = Plan(0, 3, 4 * world, 64, [np.array([64])])
    assert plan.total_steps == golden.number("K_momentum")


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 10, 13])
def test_any_batch_equals_single_writes(rows: int) -> None:
    queue, single = make_queue(), make_queue()
    for seed in range(4):
        batch = keys(rows, seed)
        queue.enqueue(batch)
        for row in batch:
            single.enqueue(row.unsqueeze(0))
        assert torch.equal(queue.features, single.features)
        assert torch.equal(queue.pointer, single.pointer)
    assert int(queue.pointer) == 4 * rows % 5


def test_starts_with_unit_rows_of_the_generator() -> None:
    queue = make_queue(64, 16)
    torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(64))
    assert torch.equal(queue.features, make_queue(64, 16).features)
    assert queue.features.dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 6])
def test_keys_that_are_not_finite_change_nothing(value: float, row: int) -> None:
    queue = make_queue()
    queue.enqueue(keys(2))
    before = {name: tensor.clone() for name, tensor in queue.state_dict().items()}
    bad = keys(7)
    bad[row, 1] = value
    queue.enqueue(bad)
    for name, tensor in queue.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_state_dict_round_trip_continues_where_it_was() -> None:
    queue, copy = make_queue(), FeatureQueue(5, 3, Generator().manual_seed(9))
    queue.enqueue(keys(3))
    copy.load_state_dict(queue.state_dict())
    for one in (queue, copy):
        one.enqueue(keys(4, seed=2))
    assert torch.equal(queue.features, copy.features)
    assert int(copy.pointer) == 2


def test_half_keys_are_stored_in_float32() -> None:
    queue = make_queue()
    queue.enqueue(keys(2).bfloat16())
    assert queue.features.dtype == torch.float32
