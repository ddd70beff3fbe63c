"""`syn2co generate --only KEY`: one image of a data set again."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..generate.conditions import read_conditions
from ..generate.gate import Gate
from ..generate.inputs import device_of
from ..generate.shards import key_of, make_shard
from ..generate.slots import Conditions, Shard, content_id, shard_of, slot_of
from ..generate.weights import digest_of_all, local_pipeline
from ..spec.errors import Syn2coError
from ..spec.generate import GenerateSpec
from ..storage import exists, open_store, read_from


def one_image(job: GenerateSpec, key: str) -> tuple[bytes, dict[str, Any]]:
    """Make one image of a data set again, in this process: its encoded bytes, and what is known about it.

    Raises:
        Syn2coError: the key is not one of this data set.
    """
    from ..generate.pipeline import ImageMaker  # torch and diffusers: only when there is something to make

    folder = local_pipeline(job.pipeline, job.object_store)
    conditions, records = read_conditions(job)
    content = content_id(job, digest_of_all(job.pipeline, job.object_store, folder), conditions)
    prefix, _, number = key.rpartition("-")
    if prefix != content or not number.isdecimal() or int(number) >= job.images:
        allowed = f"{key_of(content, 0)} to {key_of(content, job.images - 1)}"
        raise Syn2coError("--only", f"{key} is no key of this data set", allowed, "check the key")
    slot = replace(slot_of(job, conditions, int(number)), first_attempt=_attempt(job, conditions, key))
    maker = ImageMaker(job, folder, device_of(job))

    def originals(slots: Any) -> list[np.ndarray] | None:
        return None if records is None else records.images(job, slots)

    made = make_shard(job, content, Shard(0, (slot,), ""), maker, originals, Gate(job.gate), {})
    row = pq.read_table(io.BytesIO(made.data)).to_pylist()[0]
    return row.pop("image"), row


def _attempt(job: GenerateSpec, conditions: Conditions, key: str) -> int:
    """The attempt at which an image was accepted; its first while its shard is not there."""
    content, _, number = key.rpartition("-")
    slot = int(number)
    store = open_store(job.into, job.object_store)
    shard = shard_of(job, conditions, content, slot // job.images_per_shard)
    if not exists(store, shard.file):
        return conditions.first_attempts.get(slot, 0)
    attempts = read_from(store, shard.file, lambda file: pq.read_table(file, columns=["attempt"])["attempt"])
    return int(attempts[slot % job.images_per_shard].as_py())
