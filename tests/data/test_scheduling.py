"""Ray Data's scheduler while a slow consumer keeps it waiting, and what it keeps of what is done."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
import pytest
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import ExecutionResources

from syn2co_ray.data.scheduling import PAUSE_MAX_S, DoneBlocksForgotten, IdlePause
from syn2co_ray.data.stream import configure_context

ROWS = 64
WATCHED_S = 1.0
REST_WITHIN_S = 20.0


class CountedSteps(ExecutionCallback):
    steps = 0

    def on_execution_step(self, executor: Any) -> None:
        CountedSteps.steps += 1


class Kept(ExecutionCallback):
    """Most notes that a stage holds on blocks that are done, in its summary and in its queue."""

    most: ClassVar[dict[str, int]] = {}

    def on_execution_step(self, executor: Any) -> None:
        for op in executor._topology:
            queue = getattr(op, "_output_queue", None)
            done = [key for key in getattr(queue, "_inner", ()) if key < queue._current_key]
            for name, notes in (("summary", getattr(op, "_output_blocks_stats", [])), ("queue", done)):
                Kept.most[name] = max(Kept.most.get(name, 0), len(notes))


def megabyte(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"row": batch["item"], "bytes": np.zeros((len(batch["item"]), 1 << 20), np.uint8)}


def _steps_in(seconds: float) -> int:
    before = CountedSteps.steps
    time.sleep(seconds)
    return CountedSteps.steps - before


@pytest.mark.ray
def test_scheduler_rests_while_finished_blocks_wait_for_a_slow_consumer(ray_cluster):
    rows = ray.data.from_items(list(range(ROWS)), override_num_blocks=ROWS).map_batches(
        megabyte, batch_size=1, batch_format="numpy", num_cpus=0.25
    )
    configure_context(rows.context)
    assert rows.context.custom_execution_callback_classes == [DoneBlocksForgotten, IdlePause]
    rows.context.custom_execution_callback_classes.append(CountedSteps)
    rows.context.execution_options.resource_limits = ExecutionResources(object_store_memory=8 << 20)
    batches = iter(rows.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=0))
    found = [int(next(batches)["row"][0])]
    # The stages ahead fill up, and from then on nothing moves until this consumer takes another row.
    give_up = time.monotonic() + REST_WITHIN_S
    while _steps_in(WATCHED_S) > 1.5 * WATCHED_S / PAUSE_MAX_S:
        assert time.monotonic() < give_up, "the scheduler spins"
    found += [int(batch["row"][0]) for batch in batches]
    assert found == list(range(ROWS))


@pytest.mark.ray
@pytest.mark.parametrize("forgets", [True, False])
def test_scheduler_keeps_nothing_of_blocks_that_are_passed_on(ray_cluster, forgets):
    rows = ray.data.from_items(list(range(4 * ROWS)), override_num_blocks=4 * ROWS).map_batches(
        lambda batch: batch, batch_size=1, batch_format="numpy", num_cpus=0.25
    )
    configure_context(rows.context)
    if not forgets:  # what Ray does itself: that this test sees what there is to see
        rows.context.custom_execution_callback_classes = []
    rows.context.custom_execution_callback_classes.append(Kept)
    Kept.most.clear()
    found = [int(batch["item"][0]) for batch in rows.iter_batches(batch_size=1, batch_format="numpy")]
    assert found == list(range(4 * ROWS))
    assert all((most == 0) is forgets for most in Kept.most.values()), Kept.most
