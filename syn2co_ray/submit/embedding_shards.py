"""Which shards an embed job must have, which are there, and the way to the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..data.index import SourceIndex
from ..evaluate.embeddings import FOLDER
from ..evaluate.labelled import LabelledSet
from ..evaluate.networks import packed
from ..evaluate.shard_actor import Assignment, Task
from ..evaluate.shard_files import Form, ShardPlan, shard_footer
from ..evaluate.weights import LoadedBackbone
from ..spec.embed import EmbedSpec
from ..spec.errors import DataError, RunInterrupted
from ..storage import Store, delete, list_files
from ..train.run_folder import RunFolder
from .feature_actors import made_by_actors
from .progress import Progress

FOOTERS_AT_ONCE = 16
Unreadable = list[tuple[str, str]]
"""Key and reason."""


@dataclass
class EmbeddingShards:
    """The shards of one job."""

    job: EmbedSpec
    run: RunFolder
    source: LoadedBackbone
    indexes: tuple[SourceIndex, ...]
    progress: Progress
    unreadable: dict[tuple[int, int], Unreadable] = field(default_factory=dict)
    """Of each shard that is there, by source and number."""
    num_unreadable: int = 0

    @cached_property
    def plans(self) -> tuple[ShardPlan, ...]:
        """Of each source."""
        job, form = self.job, Form(self.job.dtype, self.job.l2_normalised)
        read = (job.object_store, self.source.image_size, job.image_pixels_max, job.images_per_batch)
        return tuple(
            ShardPlan(
                LabelledSet((index,), *read, labels_needed=False),
                self.source.digest,
                form=form,
                images_per_shard=job.images_per_shard,
            )
            for index in self.indexes
        )

    @cached_property
    def files(self) -> dict[tuple[int, int], str]:
        """Name of every shard's file, by source and number, in order."""
        return {
            (source, number): plan.file_of(number)
            for source, plan in enumerate(self.plans)
            for number in range(len(plan.groups))
        }

    @property
    def folder(self) -> Store:
        return self.run.store.child(FOLDER)

    def images_of(self, shard: tuple[int, int]) -> int:
        """Readable images of a shard that is there."""
        source, number = shard
        return self.plans[source].images_of(number) - len(self.unreadable[shard])

    def find(self) -> list[tuple[int, int]]:
        """Source and number of each shard that is not there; a damaged one is deleted and counts as such."""
        there = {info.path for info in list_files(self.folder, recursive=False, missing_ok=True)}
        found = [shard for shard, file in self.files.items() if file in there]
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            for shard, unreadable in zip(found, pool.map(self._looked_at, found), strict=True):
                if unreadable is not None:
                    self._there(shard, unreadable)
        return [shard for shard in self.files if shard not in self.unreadable]

    def make(self, missing: list[tuple[int, int]], stopped: Callable[[], bool]) -> dict[str, Any]:
        """Have these made; how many images, and how fast.

        Raises:
            RunInterrupted: stopped, after whole shards.
            DataError: too many unreadable images.
        """
        tasks = tuple(Task(plan, 0) for plan in self.plans)
        assignment = Assignment(self.folder, tasks, (packed("embedding", self.source),))
        started, images, busy_s, actors = time.perf_counter(), 0, 0.0, set()
        for row in made_by_actors(assignment, missing, self.job.actors, self.progress, stopped):
            shard = (int(row["task"]), int(row["shard"]))
            self._there(shard, shard_footer(self.folder, self.files[shard])[1] if row["unreadable"] else [])
            images += int(row["images"])
            busy_s += float(row["seconds"])
            actors.add(str(row["actor"]))
        if len(self.unreadable) < len(self.files) or stopped():
            raise RunInterrupted(
                self.run.store.uri,
                f"stopped after {len(self.unreadable):,} of {len(self.files):,} shards",
                "",
                "whole shards stay: run the same command to make the rest",
            )
        wall_s = time.perf_counter() - started
        return {
            "images": images,
            "wall_s": wall_s,
            "images_per_s": images / wall_s,
            "images_per_s_of_a_busy_actor": images / busy_s,
            "actors": len(actors),
        }

    def drop_others(self) -> None:
        """Delete shards of images that are no longer in the sources, or that lie in other shards now."""
        expected = set(self.files.values())
        for info in list_files(self.folder, recursive=False, missing_ok=True):
            if info.path.endswith(".parquet") and info.path not in expected:
                delete(self.folder, info.path)

    def _looked_at(self, shard: tuple[int, int]) -> Unreadable | None:
        source, number = shard
        file, images = self.files[shard], self.plans[source].images_of(number)
        try:
            rows, unreadable = shard_footer(self.folder, file)
            if rows + len(unreadable) == images:
                return unreadable
            why = f"{rows + len(unreadable)} images of {images}"
        except DataError as error:
            why = error.fault.got
        self.progress.log(f"{file} is damaged and made again ({why})")
        delete(self.folder, file)
        return None

    def _there(self, shard: tuple[int, int], unreadable: Unreadable) -> None:
        """A shard is there, with these images left out; too many of them end the job."""
        self.unreadable[shard] = unreadable
        self.num_unreadable += len(unreadable)
        total, bad = sum(index.num_records for index in self.indexes), self.num_unreadable
        if bad > self.job.quarantine_share_max * total:
            key, reason = next(entry for entries in self.unreadable.values() for entry in entries)
            raise DataError(
                "sources",
                f"{bad} of {total} images cannot be decoded, such as {key} ({reason})",
                f"at most {self.job.quarantine_share_max:.1%} (quarantine_share_max)",
                "mend the source or raise that share",
            )
