"""Shards of embeddings made by an elastic pool of actors, all over the cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..evaluate.shard_actor import Assignment, FeatureActor
from ..spec.base import Pool
from ..spec.errors import error_from_json
from .progress import PLAIN_LINE_EVERY_S, Progress, duration

BLOCKS_MAX = 4096
"""Ray Data makes its blocks up front: of more shards than that, several are a block."""

Missing = Sequence[tuple[int, int]]
"""Place of the task and number of the shard, for each one to make."""


def made_by_actors(
    assignment: Assignment, missing: Missing, actors: Pool, progress: Progress, stopped: Callable[[], bool]
) -> Iterator[Mapping[str, Any]]:
    """One row a shard as they get done (see `FeatureActor`); shows progress; ends early when stopped.

    Each shard is in the folder once, however often an actor or a node is lost meanwhile.

    Raises:
        Syn2coError: what an actor met.
    """
    done = _Done(assignment, missing, progress)
    for row in _rows(assignment, missing, actors):
        if row["error"]:
            raise error_from_json(str(row["error"]))
        done.add(row)
        yield row
        if stopped():
            return


def _rows(assignment: Assignment, missing: Missing, actors: Pool) -> Iterator[Mapping[str, Any]]:
    import ray
    import ray.data

    items = [{"task": task, "shard": shard} for task, shard in missing]
    shards = ray.data.from_items(items, override_num_blocks=min(len(items), BLOCKS_MAX))
    rows = shards.map_batches(
        FeatureActor,
        fn_constructor_kwargs={
            "boxed": [ray.put(assignment)],
            "device": "cuda" if actors.gpus_each > 0 else "cpu",
            "decode_threads": max(1, math.floor(actors.cpus_each)),
        },
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(
            min_size=min(actors.min, len(items)), max_size=min(actors.max, len(items))
        ),
        num_cpus=actors.cpus_each,
        num_gpus=actors.gpus_each,
    )
    rows.context.enable_progress_bars = False
    rows.context.print_on_execution_start = False
    for batch in rows.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=0):
        yield {name: values[0] for name, values in batch.items()}


class _Done:
    """Counts what is done, and says how fast it goes."""

    def __init__(self, assignment: Assignment, missing: Missing, progress: Progress) -> None:
        self.progress, self.shards_to_do = progress, len(missing)
        self.images_to_do = sum(assignment.tasks[task].plan.images_of(shard) for task, shard in missing)
        self.shards = self.images = self.unreadable = 0
        self.actors: set[str] = set()
        self._started = time.monotonic()
        self._said_at = -PLAIN_LINE_EVERY_S

    def add(self, row: Mapping[str, Any]) -> None:
        self.shards += 1
        self.images += int(row["images"])
        self.unreadable += int(row["unreadable"])
        self.actors.add(str(row["actor"]))
        now = time.monotonic()
        text = self.line(now - self._started)
        due = self.shards == self.shards_to_do or now - self._said_at >= PLAIN_LINE_EVERY_S
        if due and not self.progress.replace(text):
            self._said_at = now
            self.progress.log(text)

    def line(self, elapsed_s: float) -> str:
        """Shards, images, images/s, actors and time left; start-up counts, so it rises at first."""
        rate = (self.images + self.unreadable) / elapsed_s
        left_s = (self.images_to_do - self.images - self.unreadable) / max(rate, 1e-9)
        bad = f"  {self.unreadable:,} unreadable" if self.unreadable else ""
        return (
            f"{self.shards:,}/{self.shards_to_do:,} shards  {self.images:,} images  {rate:.1f} images/s  "
            f"{len(self.actors)} actors so far{bad}  ETA {duration(left_s)}"
        )
