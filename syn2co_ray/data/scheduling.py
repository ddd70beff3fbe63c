"""Ray Data's scheduler in a long run: how often it looks while there is nothing to do, and what it keeps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ray.data._internal.execution.bundle_queue import ReorderingBundleQueue
from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

PAUSE_FIRST_S = 0.001
PAUSE_MAX_S = 0.064


class IdlePause(ExecutionCallback):
    """Pause between scheduling steps that achieve nothing, twice as long each time, up to PAUSE_MAX_S.

    Ray Data's loop waits only while every task works. Where training is the slower part, finished blocks
    wait for room, `ray.wait` returns at once for each of them, and the loop spins: it took 70 % of a core
    (Ray 2.60), a third of a laptop with two. A step that moves anything is followed by the next at once.
    """

    def __init__(self) -> None:
        self._moved = -1
        self._pause_s = PAUSE_FIRST_S
        self._step_started = time.perf_counter()

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        metrics = [op.metrics for op in executor._topology or ()]
        moved = sum(
            each.num_tasks_submitted + each.num_task_outputs_generated + each.num_outputs_taken
            for each in metrics
        )
        if moved != self._moved:
            self._moved, self._pause_s = moved, PAUSE_FIRST_S
        else:
            time.sleep(max(0.0, self._pause_s - (time.perf_counter() - self._step_started)))
            self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        self._step_started = time.perf_counter()


class DoneBlocksForgotten(ExecutionCallback):
    """Drop the scheduler's notes on blocks that it has passed on.

    For a summary at the end that a run never prints, and for a place in the order that is behind it, Ray Data
    (2.60) keeps 1.3 KB a block and stage: gigabytes in a run of hundreds of epochs, all of it one execution.
    """

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        for op in executor._topology or ():
            getattr(op, "_output_blocks_stats", []).clear()
            queue = getattr(op, "_output_queue", None)
            if isinstance(queue, ReorderingBundleQueue):
                for key in [key for key in queue._inner if key < queue._current_key]:
                    del queue._inner[key]
                    queue._finalized_keys.discard(key)
