"""How often Ray Data's scheduler looks, while there is nothing for it to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

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
