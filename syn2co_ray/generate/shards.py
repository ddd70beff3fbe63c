"""A shard's images: made, gated, made again where refused, and packed into one Parquet file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
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
from .gate import differing_bits, fault_of, perceptual_hash
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
    ]
)
"""A generated record and where it comes from; readers of records take the first three columns."""

METADATA_KEY = b"syn2co_ray"
ROWS_PER_GROUP = 64


@dataclass(frozen=True)
class MadeShard:
    """A whole shard."""

    data: bytes
    """The Parquet file."""
    rejects: list[dict[str, Any]] = field(default_factory=list)
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
    about: dict[str, Any],
) -> MadeShard:
    """Make all images of a shard.

    What is accepted depends on the slots and their seeds alone, in slot order, not on batches.

    Args:
        job: the spec.
        content: see `slots.content_id`.
        shard: what to make.
        make: the pipeline.
        originals: decoded images of slots, for variations, else None.
        about: plain values for the file's metadata.

    Raises:
        DataError: a slot was refused `gate.tries_max` times.
    """
    accepted: dict[int, dict[str, Any]] = {}
    rejects: list[dict[str, Any]] = []
    pending = list(shard.slots)
    for attempt in range(job.gate.tries_max):
        made = {slot.number: row for slot, row in _made(job, content, pending, attempt, make, originals)}
        refused = []
        for slot in pending:
            row = made[slot.number]
            reason = row.pop("fault") or _duplicate(row, accepted, job.gate.duplicate_bits_max)
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
        table, buffer, row_group_size=ROWS_PER_GROUP, compression="zstd", use_dictionary=["label", "prompt"]
    )
    return MadeShard(buffer.getvalue(), rejects)


def _made(
    job: GenerateSpec,
    content: str,
    slots: Sequence[Slot],
    attempt: int,
    make: MakeImages,
    originals: Callable[[Sequence[Slot]], Sequence[np.ndarray] | None],
) -> Iterator[tuple[Slot, dict[str, Any]]]:
    """Encoded images with their provenance, and `fault`: why one is refused, or None."""
    ordered = sorted(slots, key=_settings)
    for _, group in groupby(ordered, key=_settings):
        same = list(group)
        for first in range(0, len(same), job.images_per_batch):
            batch = same[first : first + job.images_per_batch]
            seeds = [image_seed(job.seed, slot.number, attempt) for slot in batch]
            images = make(batch, seeds, originals(batch))
            for slot, seed, image in zip(batch, seeds, images, strict=True):
                yield slot, _row(job, content, slot, seed, attempt, image)


def _settings(slot: Slot) -> tuple[float, float]:
    return (slot.guidance or 0.0, slot.strength or 0.0)


def _row(
    job: GenerateSpec, content: str, slot: Slot, seed: int, attempt: int, image: np.ndarray
) -> dict[str, Any]:
    fault = fault_of(image, job.gate)
    pixels = np.rint(np.nan_to_num(image).clip(0.0, 1.0) * 255).astype(np.uint8)
    return {
        "key": key_of(content, slot.number),
        "image": encode(pixels, job.encoding),
        "label": slot.label,
        "seed": seed,
        "attempt": attempt,
        "prompt": slot.prompt,
        "class_number": slot.class_number,
        "source_key": slot.source_key,
        "guidance": slot.guidance,
        "strength": slot.strength,
        "perceptual_hash": perceptual_hash(pixels),
        "fault": fault,
    }


def encode(pixels: np.ndarray, encoding: EncodingSpec) -> bytes:
    """(H, W, 3) uint8 RGB -> PNG, JPEG or WebP."""
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


def _duplicate(row: dict[str, Any], accepted: dict[int, dict[str, Any]], bits_max: int | None) -> str | None:
    if bits_max is None:
        return None
    found = row["perceptual_hash"]
    if any(differing_bits(found, other["perceptual_hash"]) <= bits_max for other in accepted.values()):
        return "duplicate"
    return None


def _cannot_be_filled(slot: Slot, rejects: list[dict[str, Any]]) -> DataError:
    reasons = [reject["reason"] for reject in rejects if reject["slot"] == slot.number]
    what = f" ({slot.prompt or slot.label})" if slot.prompt or slot.label else ""
    return DataError(
        f"image {slot.number}{what}",
        f"was refused {len(reasons)} times: {', '.join(sorted(set(reasons)))}",
        "an image that passes the gate within gate.tries_max tries",
        "look at the pipeline, its precision and prompts, loosen the gate, or raise gate.tries_max",
    )
