"""The generator of a live source: an actor that keeps its pool of images ahead of training.

It starts and stops generating actors, gives them shards, decides the passes, and forgets shards that training
is past. All it knows is in the store: when it starts anew, it goes on from there.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from ..run_metrics import GenerationMetrics
from ..spec.errors import Syn2coError, TrainingError, error_to_json
from ..spec.generate import GenerateSpec
from ..spec.live import LiveSpec
from ..storage import Store, delete, list_files, open_store
from .actor import ForActors, ShardActor
from .ledger import PoolLedger, publish_decisions, read_decisions
from .slots import content_id, shard_of

FAILURES_IN_A_ROW_MAX = 5
"""Actors that may die one after the other (memory, a driver, a node) before the run is told."""
IDLE_S = 30.0
"""An actor above the fewest that had nothing to do for so long gives its CPUs and GPUs back."""
LOOK_AROUND_S = 5.0


@dataclass(frozen=True)
class LiveJob:
    """All that the generator is told.

    Attributes:
        live: how the pool is used.
        job: what is made, as a job that would make all of it.
        passes: over the pool, of the whole run.
        passes_ahead: of the one training is in, that may be decided. The later a pass is decided, the newer
            its images; too late, and reading would wait for training.
        weights_digest: of the pipeline.
        about: plain values for the shards' metadata.
        cpus_for_training, gpus_for_training: what generating actors above the fewest leave alone.
        shared: where the trials of a search leave shards for one another.
        run: the training's name, and
        framework: its framework, for metrics.
    """

    live: LiveSpec
    job: GenerateSpec
    passes: int
    passes_ahead: int
    weights_digest: str
    about: dict[str, Any]
    cpus_for_training: float
    gpus_for_training: float
    run: str
    framework: str
    shared: Store | None = None


@dataclass
class _Worker:
    """A generating actor and what it does."""

    handle: Any
    idle_since: float = field(default_factory=time.monotonic)
    shard: int | None = None


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class LiveGenerator:
    """See the module. `run` works until the actor is killed; everything else answers questions."""

    def __init__(self, task: LiveJob, boxed: list[Any]) -> None:
        self.task, self.job, self.boxed = task, task.job, boxed
        given: ForActors = ray.get(boxed[0])
        self.conditions = given.conditions
        self.content = content_id(self.job, task.weights_digest, self.conditions)
        self.store: Store = open_store(self.job.into, self.job.object_store)
        there = {info.path for info in list_files(self.store, recursive=False, missing_ok=True)}
        numbers = range(-(-self.job.images // self.job.images_per_shard))
        self.ledger = PoolLedger(
            task.live,
            task.passes,
            made=[number for number in numbers if self._file(number) in there],
            decided=read_decisions(self.store),
            keep=partial(publish_decisions, self.store),
        )
        self.decided_before = len(self.ledger.decided)
        self.workers: list[_Worker] = []
        self.images_made = self.images_shared = self.failures = 0
        self.waited_s = 0.0
        self.position: int | None = None
        self.error = ""
        self.ended = False
        self.metrics = GenerationMetrics(task.run, task.framework)
        self.metrics.began()
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Keep the pool ahead of training, until it is asked to end."""
        try:
            await self._work()
        except Exception as error:
            # Training waits for passes; whatever ends this must reach it.
            self.error = error_to_json(error if isinstance(error, Syn2coError) else _broken(error))
        async with self._changed:
            self._changed.notify_all()

    async def _work(self) -> None:
        waiting: dict[asyncio.Future[Any], _Worker] = {}
        while not (self.error or self.ended):
            self._hire_and_fire()
            self.metrics.pool(
                self.ledger.ready * self.job.images_per_shard, len(self.workers), self.ledger.late_passes
            )
            for worker, shard in zip(self._idle(), self._to_make(), strict=False):
                worker.shard = shard
                waiting[asyncio.ensure_future(_answer(worker.handle.make.remote(shard)))] = worker
            if waiting:
                done, _ = await asyncio.wait(
                    waiting, timeout=LOOK_AROUND_S, return_when=asyncio.FIRST_COMPLETED
                )
            else:
                async with self._changed:
                    await _within(LOOK_AROUND_S, self._changed.wait())
                done = set()
            for answer in done:
                self._take(waiting.pop(answer), answer.result())
            if done:
                async with self._changed:
                    self._changed.notify_all()

    async def files_of_pass(self, number: int) -> dict[str, Any]:
        """`files`: the file in each place of a pass, once they are there; or `error`."""
        asked_at, waited = time.monotonic(), False
        async with self._changed:
            if self.position is None:
                self.position = number
            while not self.error and self._too_early(number):
                await self._changed.wait()
            while not self.error and (places := self.ledger.places(number)) is None:
                # What this pass lacks may be new to `run`.
                self._changed.notify_all()
                waited = True
                await self._changed.wait()
        if waited:
            self.waited_s = max(self.waited_s, time.monotonic() - asked_at)
        if self.error:
            return {"files": [], "error": self.error}
        assert places is not None
        files = {shard: self._file(shard) for shard in set(places)}
        return {"files": [files[shard] for shard in places], "error": ""}

    async def trained_up_to(self, number: int) -> None:
        """Training is in this pass: forget what only earlier ones needed."""
        async with self._changed:
            self.position = number
            self._changed.notify_all()
        for shard in self.ledger.drop_before(number):
            await asyncio.to_thread(delete, self.store, self._file(shard))

    async def end(self) -> None:
        """Give up what is being made, and the actors that make it."""
        async with self._changed:
            self.ended = True
            for worker in self.workers:
                ray.kill(worker.handle)
            self._changed.notify_all()

    async def look(self) -> dict[str, Any]:
        """Counts, for people."""
        per_shard = self.job.images_per_shard
        return {
            "images_made": self.images_made,
            "images_shared": self.images_shared,
            "images_ready": self.ledger.ready * per_shard,
            "passes": len(self.ledger.decided) - self.decided_before,
            "late_passes": self.ledger.late_passes,
            "longest_wait_s": self.waited_s,
            "actors": len(self.workers),
        }

    def _too_early(self, number: int) -> bool:
        assert self.position is not None
        return number > self.position + self.task.passes_ahead and number >= len(self.ledger.decided)

    def _file(self, number: int) -> str:
        return shard_of(self.job, self.conditions, self.content, number).file

    def _idle(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.shard is None]

    def _to_make(self) -> list[int]:
        return self.ledger.next_shards([w.shard for w in self.workers if w.shard is not None])

    def _take(self, worker: _Worker, row: Any) -> None:
        """What came of a shard: a row, or the error of Ray that its actor died of."""
        shard, worker.shard, worker.idle_since = worker.shard, None, time.monotonic()
        assert shard is not None
        if isinstance(row, RayError):
            self.workers.remove(worker)
            self.failures += 1
            if self.failures >= FAILURES_IN_A_ROW_MAX:
                self.error = error_to_json(_dying(row))
        elif row["error"]:
            self.error = row["error"]
        else:
            self.failures = 0
            self.images_made += row["images"]
            self.images_shared += 0 if row["images"] else self.job.images_per_shard
            self.metrics.shard(int(row["images"]), json.loads(row["rejects"]))
            self.ledger.add(shard)

    def _hire_and_fire(self) -> None:
        """As many actors as there is work for, between the fewest and what training leaves."""
        wanted = len(self._to_make()) + sum(worker.shard is not None for worker in self.workers)
        target = max(self.job.actors.min, min(wanted, self._room()))
        while len(self.workers) < target:
            self.workers.append(_Worker(self._new_actor()))
        now = time.monotonic()
        for worker in self._idle():
            if len(self.workers) > target and now - worker.idle_since > IDLE_S:
                ray.kill(worker.handle)
                self.workers.remove(worker)

    def _room(self) -> int:
        """Actors that fit beside training on the cluster as it is now, at most `actors.max`."""
        there, actors = ray.cluster_resources(), self.job.actors
        room = (there.get("CPU", 0.0) - self.task.cpus_for_training) / actors.cpus_each
        if actors.gpus_each:
            room = min(room, (there.get("GPU", 0.0) - self.task.gpus_for_training) / actors.gpus_each)
        # Ray counts in steps of 1/10,000.
        return min(actors.max, int(room + 1e-4))

    def _new_actor(self) -> Any:
        actors = self.job.actors
        kind = ray.remote(num_cpus=actors.cpus_each, num_gpus=actors.gpus_each)(ShardActor)
        task = self.task
        return kind.remote(self.job, self.boxed, task.weights_digest, task.about, task.shared)


async def _answer(reference: Any) -> Any:
    """An actor's answer, or the error of Ray that came instead."""
    try:
        return await reference
    except RayError as error:
        return error


async def _within(timeout_s: float, waiting: Any) -> None:
    try:
        await asyncio.wait_for(waiting, timeout_s)
    except TimeoutError:
        return


def _broken(error: Exception) -> TrainingError:
    step = "run the same command to resume; report this if it comes again"
    return TrainingError("data.live", f"{type(error).__name__}: {error}", "", step)


def _dying(error: RayError) -> TrainingError:
    words = next(iter(reversed(str(error).strip().splitlines())), type(error).__name__)
    return TrainingError(
        "data.live.generator",
        f"{FAILURES_IN_A_ROW_MAX} generating actors died one after the other; the last: {words}",
        "",
        "if memory ran out, lower images_per_batch; run the same command to resume",
    )
