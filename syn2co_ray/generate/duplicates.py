"""Near-duplicates across the shards of a data set: found when all are there, and made again."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from ..spec.errors import DataError
from ..spec.generate import GenerateSpec
from ..storage import Store, exists, publish_bytes, read_bytes, read_from
from .gate import differing_bits
from .parts import Parts
from .shards import PART_SCHEMA
from .slots import Conditions, number_of_shards, shard_of

FIRST_ATTEMPTS_FILE = "first_attempts.json"
HASH_BITS = 64


def read_first_attempts(store: Store) -> dict[int, int]:
    """Slot -> first attempt, of a data set that was begun before."""
    if not exists(store, FIRST_ATTEMPTS_FILE):
        return {}
    return {
        int(slot): attempt for slot, attempt in json.loads(read_bytes(store, FIRST_ATTEMPTS_FILE)).items()
    }


def repeated(hashes: Mapping[int, int], bits_max: int) -> list[int]:
    """Slots whose image is near that of an earlier slot which is not itself such a repeat, in slot order.

    Two hashes that differ in at most b bits are equal in at least one of b + 1 pieces of the 64 bits, so only
    images that share a piece are compared. Fast for small b: with 2 bits, a million images take a minute.
    """
    pieces = bits_max + 1
    edges = [HASH_BITS * piece // pieces for piece in range(pieces + 1)]
    kept: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in range(pieces)]
    repeats = []
    for slot in sorted(hashes):
        found = hashes[slot]
        parts = [(found >> low) & ((1 << (high - low)) - 1) for low, high in pairwise(edges)]
        candidates = (other for piece, part in enumerate(parts) for other in kept[piece].get(part, ()))
        if any(differing_bits(found, other) <= bits_max for other in candidates):
            repeats.append(slot)
            continue
        for piece, part in enumerate(parts):
            kept[piece][part].append(found)
    return repeats


def plan_again(store: Store, job: GenerateSpec, conditions: Conditions, content: str) -> Conditions:
    """Conditions under which slots that repeat images of other shards take their next seed.

    All shards must be there. What is good of a shard that holds a repeat is kept as a part of the shard that
    is to replace it. The same conditions come back when there is nothing to do.

    Raises:
        DataError: a slot repeats others with all the seeds it may use up.
    """
    if job.gate.duplicate_bits_max is None:
        return conditions
    rows: dict[int, tuple[int, int]] = {}
    for number in range(number_of_shards(job)):
        table = _read(store, shard_of(job, conditions, content, number).file, ["perceptual_hash", "attempt"])
        first = number * job.images_per_shard
        for place, row in enumerate(table.to_pylist()):
            rows[first + place] = (row["perceptual_hash"], row["attempt"])
    repeats = repeated({slot: found for slot, (found, _) in rows.items()}, job.gate.duplicate_bits_max)
    if not repeats:
        return conditions
    attempts = {**conditions.first_attempts, **{slot: rows[slot][1] + 1 for slot in repeats}}
    _refuse_endless(attempts, repeats, job.gate.tries_max)
    later = replace(conditions, first_attempts=attempts)
    for number in sorted({slot // job.images_per_shard for slot in repeats}):
        _keep(store, job, conditions, later, content, number, set(repeats))
    text = json.dumps({str(slot): attempt for slot, attempt in sorted(attempts.items())})
    publish_bytes(store, FIRST_ATTEMPTS_FILE, text.encode())
    return later


def _refuse_endless(attempts: Mapping[int, int], repeats: Sequence[int], tries_max: int) -> None:
    spent = [slot for slot in repeats if attempts[slot] >= tries_max * tries_max]
    if spent:
        raise DataError(
            f"image {spent[0]}" + (f" and {len(spent) - 1:,} more" if spent[1:] else ""),
            f"repeats others with each of {attempts[spent[0]]} seeds",
            f"an image of its own within gate.tries_max x gate.tries_max = {tries_max * tries_max} seeds",
            "the generator has too little variety: ask for fewer images, or lower gate.duplicate_bits_max",
        )


def _keep(
    store: Store,
    job: GenerateSpec,
    before: Conditions,
    later: Conditions,
    content: str,
    number: int,
    repeats: set[int],
) -> None:
    table = _read(store, shard_of(job, before, content, number).file, None)
    first = number * job.images_per_shard
    rows = [
        {**row, "slot": first + place, "fault": None}
        for place, row in enumerate(table.to_pylist())
        if first + place not in repeats
    ]
    if rows:
        Parts(store, shard_of(job, later, content, number).file, PART_SCHEMA, save_every_s=0.0).add(rows)


def _read(store: Store, file: str, columns: list[str] | None) -> pa.Table:
    return read_from(store, file, lambda opened: pq.read_table(opened, columns=columns))
