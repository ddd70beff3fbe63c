"""Ray Data's scheduler while a slow consumer keeps it waiting."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import ExecutionResources

from syn2co_ray.data.scheduling import PAUSE_MAX_S, IdlePause
from syn2co_ray.data.stream import configure_context

ROWS = 64
WATCHED_S = 1.0
REST_WITHIN_S = 20.0


class CountedSteps(ExecutionCallback):
    steps = 0

    def on_execution_step(self, executor: Any) -> None:
        CountedSteps.steps += 1


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
    assert rows.context.custom_execution_callback_classes == [IdlePause]
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
