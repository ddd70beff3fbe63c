"""The generating actor: holds a pipeline, takes the numbers of shards, leaves whole files."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from ..spec.errors import Fault, SpecError, Syn2coError, error_to_json
from ..spec.generate import GenerateSpec
from ..storage import Store, exists, open_store, publish_bytes, read_bytes
from .conditions import RealRecords
from .fitting_batches import FittingBatches
from .gate import Gate, ReferenceHashes
from .parts import Parts
from .shards import PART_SCHEMA, make_shard
from .slots import Conditions, Slot, content_id, shard_of
from .weights import digest_of_all, local_pipeline


@dataclass(frozen=True)
class ForActors:
    """What all actors need, sent once a node."""

    conditions: Conditions
    records: RealRecords | None
    reference: ReferenceHashes | None = None
    real_features: np.ndarray | None = None
    """Of the embedding gate, unit rows (n, C)."""


class ShardActor:
    """Ray Data calls it with blocks of one row, the number of a shard; a live source calls `make`.

    With `shared`, a shard that lies there already (its name is the hash of what it holds) is copied, and what
    is made is left there too. Out comes one row a shard: number, images made (0: copied), seconds, `rejects`
    (JSON, reason -> count), the actor's name, or `error`, which the driver raises.
    """

    def __init__(
        self,
        job: GenerateSpec,
        boxed: list[Any],
        digest: str,
        about: dict[str, Any],
        shared: Store | None = None,
    ) -> None:
        self.job, self.about, self.shared = job, about, shared
        given: ForActors = ray.get(boxed[0])
        self.conditions, self.records = given.conditions, given.records
        self.content = content_id(job, digest, self.conditions)
        self.store = open_store(job.into, job.object_store)
        self._name = ray.get_runtime_context().get_actor_id()
        self._error: str | None = None
        try:
            self._load(digest, given)
        except Syn2coError as error:
            # Ray Data would try the actor again and again; the driver should hear of it once.
            self._error = error_to_json(error)

    def _load(self, digest: str, given: ForActors) -> None:
        from .pipeline import ImageMaker

        folder = local_pipeline(self.job.pipeline, self.job.object_store)
        found = digest_of_all(self.job.pipeline, self.job.object_store, folder)
        if found != digest:
            got = f"{folder} has digest {found[:12]} on this node, {digest[:12]} on the driver's"
            raise SpecError([Fault("pipeline.source", got, "the same files on every node", "copy them")])
        device = "cuda" if self.job.actors.gpus_each > 0 else "cpu"
        self.maker = FittingBatches(ImageMaker(self.job, folder, device), self.job.images_per_batch)
        self.gate = Gate(self.job.gate, given.reference, self._similarity(given, device))

    def _similarity(self, given: ForActors, device: str) -> Any:
        if self.job.gate.embedding is None or given.real_features is None:
            return None
        from .embedding_gate import NearestReal

        return NearestReal(self.job.gate.embedding, given.real_features, self.job.object_store, device)

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        row = self.make(int(block["shard"][0]))
        return {name: np.array([value]) for name, value in row.items()}

    def make(self, number: int) -> dict[str, Any]:
        """Make one shard and publish it; see the class for what is answered."""
        started = time.perf_counter()
        images, rejects, error = 0, "{}", self._error or ""
        if not error:
            try:
                images, rejects = self._publish(number)
            except Syn2coError as failure:
                error = error_to_json(failure)
        return {
            "shard": number,
            "images": images,
            "seconds": time.perf_counter() - started,
            "rejects": rejects,
            "actor": self._name or "",
            "error": error,
        }

    def _publish(self, number: int) -> tuple[int, str]:
        shard = shard_of(self.job, self.conditions, self.content, number)
        if self.shared is not None and exists(self.shared, shard.file):
            publish_bytes(self.store, shard.file, read_bytes(self.shared, shard.file))
            return 0, "{}"
        parts = Parts(self.store, shard.file, PART_SCHEMA)
        made = make_shard(
            self.job, self.content, shard, self.maker, self._originals, self.gate, self.about, parts
        )
        for store in (self.store, self.shared) if self.shared is not None else (self.store,):
            publish_bytes(store, shard.file, made.data)
        parts.clear()
        return len(shard.slots), json.dumps(Counter(reject["reason"] for reject in made.rejects))

    def _originals(self, slots: Sequence[Slot]) -> list[np.ndarray] | None:
        return None if self.records is None else self.records.images(self.job, slots)
