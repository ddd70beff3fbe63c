"""What generating actors get: conditions, records to vary, and what the gate compares with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import ray.data

from ..data.index import build_index
from ..spec.generate import GenerateSpec
from ..storage import Store, exists, publish_bytes, read_bytes
from .actor import ForActors
from .conditions import RealRecords
from .gate import ReferenceHashes
from .reference import fingerprint_of, fragment_hashes, loaded, saved
from .slots import Conditions

REFERENCE_FOLDER = "_reference"


def inputs_of_actors(
    job: GenerateSpec,
    store: Store,
    conditions: Conditions,
    records: RealRecords | None,
    log: Callable[[str], None],
) -> ForActors:
    """What actors need, with what the gate compares to: made once, on the cluster."""
    reference, features = None, None
    if job.gate.duplicates_of:
        reference = _reference(job, store, log)
    if job.gate.embedding is not None:
        from .embedding_gate import real_features

        task = ray.remote(num_cpus=job.actors.cpus_each, num_gpus=job.actors.gpus_each)(real_features)
        features = ray.get(task.remote(job.gate.embedding, job.object_store, device_of(job)))
        log(f"gate: features of {len(features):,} real images")
    return ForActors(conditions, records, reference, features)


def _reference(job: GenerateSpec, store: Store, log: Callable[[str], None]) -> ReferenceHashes:
    """Hashes of the sets that no image may repeat: kept beside the data set, for the next start."""
    indexes = [build_index(source, job.object_store) for source in job.gate.duplicates_of]
    place, file = store.child(REFERENCE_FOLDER), f"{fingerprint_of(indexes)}.npz"
    if exists(place, file):
        return loaded(read_bytes(place, file))
    fragments = [
        {"set": number, "fragment": fragment}
        for number, index in enumerate(indexes)
        for fragment in range(len(index.fragment_rows))
    ]
    boxed = [ray.put((indexes, job.object_store))]
    rows = ray.data.from_items(fragments, override_num_blocks=len(fragments)).map_batches(
        _hashed, fn_kwargs={"boxed": boxed}, batch_size=1, batch_format="numpy"
    )
    rows.context.enable_progress_bars = False
    found = [(int(batch["set"][0]), batch["hash"]) for batch in rows.iter_batches(batch_size=None)]
    found.sort(key=lambda item: item[0])
    reference = ReferenceHashes(
        np.concatenate([hashes for _, hashes in found]).astype(np.uint64),
        np.concatenate([np.full(len(hashes), number) for number, hashes in found]),
        tuple(source.uri for source in job.gate.duplicates_of),
    )
    publish_bytes(place, file, saved(reference))
    log(f"gate: {len(reference.hashes):,} real images that none may repeat")
    return reference


def _hashed(batch: dict[str, np.ndarray], boxed: list[Any]) -> dict[str, np.ndarray]:
    indexes, options = ray.get(boxed[0])
    number = int(batch["set"][0])
    hashes = fragment_hashes(indexes[number], int(batch["fragment"][0]), options)
    return {"set": np.full(len(hashes), number), "hash": hashes}


def device_of(job: GenerateSpec) -> str:
    """Where a job's networks run."""
    return "cuda" if job.actors.gpus_each > 0 else "cpu"
