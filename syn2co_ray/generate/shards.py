"""A shard's images: made, gated, made again where refused, and packed into one Parquet file."""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.record import STORED_SCHEMA
from ..spec.errors import DataError
from ..spec.generate import EncodingSpec, GenerateSpec
from .digital_source import marked
from .gate import Gate, Scores, perceptual_hash
from .parts import Parts, Row
from .slots import Shard, Slot, image_seed

MakeImages = Callable[[Sequence[Slot], Sequence[int], Sequence[np.ndarray] | None], np.ndarray]
"""See `pipeline.ImageMaker.__call__`."""

SCHEMA = pa.schema(
    [
        *STORED_SCHEMA,
        ("seed", pa.int64()),
        ("attempt", pa.int32()),
        ("prompt", pa.string()),
        ("class_number", pa.int64()),
        ("source_key", pa.string()),
        ("guidance", pa.float64()),
        ("strength", pa.float64()),
        ("perceptual_hash", pa.uint64()),
        ("contrast", pa.float64()),
        ("similarity", pa.float64()),
    ]
)
"""A generated record and where it comes from; readers of records take the first three columns."""

PART_SCHEMA = pa.schema([*SCHEMA, ("slot", pa.int64()), ("fault", pa.string())])
"""The same in a part of an unfinished shard, refused images too."""

METADATA_KEY = b"syn2co_ray"
ROWS_PER_GROUP = 64
BATCHES_WAITING_MAX = 2
"""Made and not yet encoded: bounds memory when encoding is the slower part."""


@dataclass(frozen=True)
class MadeShard:
    """A whole shard."""

    data: bytes
    """The Parquet file."""
    rejects: list[Row] = field(default_factory=list)
    """Slot, attempt, label and reason of every image that was refused."""


def key_of(content: str, slot: int) -> str:
    """Key of a slot's image: differs between data sets, so that they can be mixed."""
    return f"{content}-{slot:09d}"


def make_shard(
    job: GenerateSpec,
    content: str,
    shard: Shard,
    make: MakeImages,
    originals: Callable[[Sequence[Slot]], Sequence[np.ndarray] | None],
    gate: Gate,
    about: dict[str, Any],
    parts: Parts | None = None,
) -> MadeShard:
    """Make all images of a shard.

    What is accepted depends on the slots and their seeds alone, in slot order, not on batches.

    Args:
        job: the spec.
        content: see `slots.content_id`.
        shard: what to make.
        make: the pipeline.
        originals: decoded images of slots, for variations, else None.
        gate: what an image must pass.
        about: plain values for the file's metadata.
        parts: where what is done is kept; None: nowhere.

    Raises:
        DataError: a slot was refused `gate.tries_max` times.
    """
    accepted: dict[int, Row] = {}
    rejects: list[Row] = []
    made = parts.load() if parts else {}
    pending = list(shard.slots)
    for turn in range(job.gate.tries_max):
        wanted = [slot for slot in pending if (slot.number, slot.first_attempt + turn) not in made]
        for row in _made(job, content, wanted, turn, make, originals, gate, parts):
            made[row["slot"], row["attempt"]] = row
        refused = []
        for slot in pending:
            attempt = slot.first_attempt + turn
            row = made.pop((slot.number, attempt))
            hashes = (other["perceptual_hash"] for other in accepted.values())
            reason = row["fault"] or gate.duplicate(row["perceptual_hash"], hashes)
            if reason is None:
                accepted[slot.number] = row
                continue
            refused.append(slot)
            rejects.append({"slot": slot.number, "attempt": attempt, "label": slot.label, "reason": reason})
        pending = refused
        if not pending:
            break
    if pending:
        raise _cannot_be_filled(pending[0], rejects)
    rows = [accepted[slot.number] for slot in shard.slots]
    metadata = {METADATA_KEY: json.dumps({**about, "rejects": rejects}).encode()}
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        use_dictionary=["label", "prompt"],
        write_page_checksum=True,
    )
    return MadeShard(buffer.getvalue(), rejects)


def _made(
    job: GenerateSpec,
    content: str,
    slots: Sequence[Slot],
    turn: int,
    make: MakeImages,
    originals: Callable[[Sequence[Slot]], Sequence[np.ndarray] | None],
    gate: Gate,
    parts: Parts | None,
) -> Iterator[Row]:
    """Encoded images with their provenance, and `fault`: why one is refused, or None.

    While the pipeline makes a batch, the ones before it are looked at, encoded and kept in another thread.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode") as encoder:
        waiting: deque[Future[list[Row]]] = deque()
        for batch in _batches(job, slots):
            seeds = [image_seed(job.seed, slot.number, slot.first_attempt + turn) for slot in batch]
            images = make(batch, seeds, originals(batch))
            waiting.append(encoder.submit(_rows, job, content, batch, turn, images, gate, parts))
            if len(waiting) > BATCHES_WAITING_MAX:
                yield from waiting.popleft().result()
        for rows in waiting:
            yield from rows.result()


def _batches(job: GenerateSpec, slots: Sequence[Slot]) -> Iterator[list[Slot]]:
    """Slots that can go through the network together."""
    for _, group in groupby(sorted(slots, key=_settings), key=_settings):
        same = list(group)
        for first in range(0, len(same), job.images_per_batch):
            yield same[first : first + job.images_per_batch]


def _rows(
    job: GenerateSpec,
    content: str,
    batch: Sequence[Slot],
    turn: int,
    images: np.ndarray,
    gate: Gate,
    parts: Parts | None,
) -> list[Row]:
    pixels = list(np.rint(np.nan_to_num(images).clip(0.0, 1.0) * 255).astype(np.uint8))
    rows = [
        _row(job, content, slot, slot.first_attempt + turn, image, scores)
        for slot, image, scores in zip(batch, pixels, gate.scores(images, pixels), strict=True)
    ]
    if parts is not None:
        parts.add(rows)
    return rows


def _settings(slot: Slot) -> tuple[float, float]:
    return (slot.guidance or 0.0, slot.strength or 0.0)


def _row(
    job: GenerateSpec, content: str, slot: Slot, attempt: int, pixels: np.ndarray, scores: Scores
) -> Row:
    return {
        "key": key_of(content, slot.number),
        "image": encode(pixels, job.encoding),
        "label": slot.label,
        "seed": image_seed(job.seed, slot.number, attempt),
        "attempt": attempt,
        "prompt": slot.prompt,
        "class_number": slot.class_number,
        "source_key": slot.source_key,
        "guidance": slot.guidance,
        "strength": slot.strength,
        "perceptual_hash": perceptual_hash(pixels),
        "contrast": scores.contrast,
        "similarity": scores.similarity,
        "slot": slot.number,
        "fault": scores.fault,
    }


def encode(pixels: np.ndarray, encoding: EncodingSpec) -> bytes:
    """(H, W, 3) uint8 RGB -> PNG, JPEG or WebP, marked as generated if asked."""
    if encoding.mark:
        return marked(pixels, encoding)
    options = {
        "png": [],
        "jpeg": [cv2.IMWRITE_JPEG_QUALITY, encoding.quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, encoding.quality],
    }
    extension = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}[encoding.format]
    done, data = cv2.imencode(extension, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options[encoding.format])
    if not done:
        raise RuntimeError(f"an image of {pixels.shape} could not be encoded as {encoding.format}")
    return data.tobytes()


def _cannot_be_filled(slot: Slot, rejects: list[Row]) -> DataError:
    reasons = [reject["reason"] for reject in rejects if reject["slot"] == slot.number]
    what = f" ({slot.prompt or slot.label})" if slot.prompt or slot.label else ""
    return DataError(
        f"image {slot.number}{what}",
        f"was refused {len(reasons)} times: {', '.join(sorted(set(reasons)))}",
        "an image that passes the gate within gate.tries_max tries",
        "look at the pipeline, its precision and prompts, loosen the gate, or raise gate.tries_max",
    )
