"""Any source as Parquet shards: which images a shard holds, and the shard itself.

Order: the source's fragments (row groups, runs of samples, image files) in an order drawn from their names;
cut into shards every `rows_per_shard` images; inside a shard, images in an order drawn from their keys. So an
image is mixed with those it shares a shard with, and a shard is a pure function of source, options and its
number, whoever makes it and when. Only the fragments at its two ends are read for its neighbours too.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg

from ..spec.identity import spec_hash
from ..spec.ingest import IngestSpec
from .decode import UnreadableImage, decode_rgb
from .index import SourceIndex, read_fragments
from .record import IMAGE, KEY, LABEL
from .shards import key_order, shard_bytes

FORMAT_VERSION: Final = 1
ROWS_READ_AT_ONCE: Final = 256
FRAGMENTS_READ_AT_ONCE: Final = 32
SIDES_DECODED: Final = 2
"""A large JPEG may be decoded at less than its size, but at this many times the one wanted."""

# A shard is made by one CPU; the others make other shards.
cv2.setNumThreads(0)

Request = tuple[int, np.ndarray | None]
"""A fragment and the rows wanted of it, as `read_fragments` takes them."""


@dataclass(frozen=True, eq=False)
class IngestPlan:
    """Which images each shard holds. Pickles once for all tasks; its arrays are shared on a node."""

    spec: IngestSpec
    index: SourceIndex
    order: np.ndarray
    """Fragments in the order in which they are read, int64 (F,)."""
    ends: np.ndarray
    """Images up to and with each fragment, in that order, int64 (F,)."""
    content: str
    """Hash (12 hex digits) of what decides every byte: the source's files and the options."""

    @property
    def num_shards(self) -> int:
        """M."""
        return -(-self.index.num_records // self.spec.rows_per_shard)

    def rows_of(self, number: int) -> int:
        """Images of the source that shard `number` takes."""
        return min(self.spec.rows_per_shard, self.index.num_records - number * self.spec.rows_per_shard)

    def file_of(self, number: int) -> str:
        """Name of shard `number`, with the hash of what it is to hold."""
        return f"part-{number:05d}-{_hash([self.content, number])}.parquet"

    def requests_of(self, number: int) -> list[Request]:
        """The fragments of shard `number`, and their rows where it does not take all."""
        begin = number * self.spec.rows_per_shard
        end = begin + self.rows_of(number)
        first, last = np.searchsorted(self.ends, [begin, end - 1], side="right")
        requests: list[Request] = []
        for place in range(first, last + 1):
            fragment = int(self.order[place])
            rows = int(self.index.fragment_rows[fragment])
            start = int(self.ends[place]) - rows
            taken = np.arange(max(begin - start, 0), min(end - start, rows))
            requests.append((fragment, None if len(taken) == rows else taken))
        return requests


def make_plan(spec: IngestSpec, index: SourceIndex) -> IngestPlan:
    """The plan of an indexed source."""
    places = zip(index.fragment_file.tolist(), index.fragment_first_row.tolist(), strict=True)
    order = key_order([f"{index.files[file]}:{first_row}" for file, first_row in places])
    ends = np.cumsum(index.fragment_rows[order], dtype=np.int64)
    # The source's files count, not where they lie; its columns as they were found.
    found = index.source.model_copy(update={"uri": "-", "share": None})
    decisive = spec_hash(spec.model_copy(update={"source": found}))
    return IngestPlan(spec, index, order, ends, _hash([FORMAT_VERSION, index.fingerprint, decisive]))


def smaller(encoded: bytes, spec: IngestSpec) -> bytes:
    """The image with a shorter side of at most `spec.shorter_side` pixels.

    One that is small enough already keeps its bytes, whatever its format. Others are turned upright, averaged
    down with their aspect kept, and encoded as RGB JPEG.

    Raises:
        UnreadableImage: it cannot be decoded, whether it is to become smaller or not.
    """
    side = spec.shorter_side
    pixels = decode_rgb(
        encoded, pixels_max=spec.image_pixels_max, shorter_side_min=SIDES_DECODED * (side or 0)
    )
    height, width = pixels.shape[:2]
    if side is None or min(height, width) <= side:
        return encoded
    scale = side / min(height, width)
    size = round(width * scale), round(height * scale)
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return simplejpeg.encode_jpeg(resized, quality=spec.quality, colorspace="RGB", colorsubsampling="420")


def make_shard(plan: IngestPlan, number: int) -> tuple[bytes, dict[str, Any]]:
    """Shard `number` as Parquet bytes, and what is known about it.

    Raises:
        StorageError, DataError: the source cannot be read, or changed after it was indexed.
    """
    rows: list[tuple[str, bytes, str | None]] = []
    unreadable: list[dict[str, str]] = []
    bytes_before = 0
    with ThreadPoolExecutor(1) as ahead:
        for table in _tables(plan, number, ahead):
            for key, image, label in zip(*(table[name] for name in (KEY, IMAGE, LABEL)), strict=True):
                encoded = image.as_py()
                bytes_before += len(encoded)
                try:
                    rows.append((key.as_py(), smaller(encoded, plan.spec), label.as_py()))
                except UnreadableImage as error:
                    source = plan.index.source.uri
                    unreadable.append({"key": key.as_py(), "reason": error.reason, "source": source})
    order = key_order([row[0] for row in rows])
    data = shard_bytes([rows[place] for place in order], plan.spec.rows_per_group)
    about = {
        "file": plan.file_of(number),
        "rows": len(rows),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "image_bytes_before": bytes_before,
        "image_bytes_after": sum(len(row[1]) for row in rows),
        "images_per_label": Counter(row[2] for row in rows if row[2] is not None),
        "unreadable": unreadable,
    }
    return data, about


def _tables(plan: IngestPlan, number: int, ahead: ThreadPoolExecutor) -> Iterator[pa.Table]:
    """The shard's records, a few fragments at a time; the next ones are read meanwhile."""

    def read(batch: list[Request]) -> list[pa.Table]:
        columns = (KEY, IMAGE, LABEL)
        return read_fragments(
            plan.index, batch, plan.spec.object_store, FRAGMENTS_READ_AT_ONCE, columns=columns
        )

    reading = None
    for batch in _batches(plan, plan.requests_of(number)):
        following = ahead.submit(read, batch)
        if reading is not None:
            yield from reading.result()
        reading = following
    if reading is not None:
        yield from reading.result()


def _batches(plan: IngestPlan, requests: list[Request]) -> Iterator[list[Request]]:
    batch: list[Request] = []
    rows = 0
    for fragment, taken in requests:
        batch.append((fragment, taken))
        rows += int(plan.index.fragment_rows[fragment]) if taken is None else len(taken)
        if rows >= ROWS_READ_AT_ONCE:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
