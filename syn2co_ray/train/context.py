"""What the training loop knows of the world: its rank, its records, and a way to agree with others.

The loop never imports ray. `train.worker` builds a context inside Ray Train; tests and benchmarks build
one around plain processes, or none at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ..data.stream import StepRecords
from .wish import Wish


@dataclass
class TrainContext:
    """One rank's place in the run.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        device: where the networks live.
        records: global step to start at -> this rank's records of that and the following steps; none for work
            that reads its own.
        control_group: a CPU (gloo) process group for decisions, so that agreeing never waits for the
            GPU; None with one process.
        show: progress of the run, called on rank 0 after every step; must not block.
        wish: asked on rank 0 before every step.
        pause: called with the number of steps done on all ranks, after a checkpoint that was wished for with
            a pause; returns when training is to go on.
        keys_seen: called with (step, keys) of this rank before every step; for checks of the plan.
    """

    rank: int
    world_size: int
    device: torch.device
    records: Callable[[int], Iterator[StepRecords]] = lambda first_step: iter(())
    control_group: Any = None
    show: Callable[[dict[str, Any]], None] = lambda progress: None
    wish: Callable[[], Wish] = lambda: Wish.GO_ON
    pause: Callable[[int], None] = lambda step: None
    keys_seen: Callable[[int, list[str]], None] | None = None

    def summed(self, *values: float) -> list[float]:
        """Sums over all ranks; every rank must call it at the same place."""
        tensor = torch.tensor(values, dtype=torch.float64)
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.control_group)
        return tensor.tolist()

    def gathered(self, value: Any) -> list[Any]:
        """One small plain value of every rank, in rank order."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control_group)
        return values

    def collected(self, value: Any) -> list[Any] | None:
        """One plain value of every rank in rank order, on rank 0 only (for large ones)."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, values, dst=0, group=self.control_group)
        return values
