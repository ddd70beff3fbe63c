"""Parquet shards of records in an order that mixes classes and depends on the keys alone."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .record import STORED_SCHEMA

SHARD_NAME: Final = re.compile(r"part-\d{5}\.parquet")


def key_fraction(key: str, salt: str) -> float:
    """A number in [0, 1) that looks random and depends on the key and the salt alone."""
    word = hashlib.sha256(f"{salt}\0{key}".encode()).digest()[:8]
    return int.from_bytes(word, "big") / 2**64


def key_order(keys: Sequence[str]) -> np.ndarray:
    """Positions (N,) int64 of the keys in a shuffled order that depends on the keys alone."""
    return np.argsort([key_fraction(key, salt="order") for key in keys], kind="stable")


def write_shards(
    rows: Iterable[tuple[str, bytes, str]], rows_per_shard: int, rows_per_group: int
) -> Iterator[tuple[str, int, bytes]]:
    """Shards (name, rows, Parquet bytes) of (key, image, label) rows; one shard is in memory at a time."""
    source = iter(rows)
    number = 0
    while shard := list(islice(source, rows_per_shard)):
        data = shard_bytes(shard, rows_per_group)
        yield f"part-{number:05d}.parquet", len(shard), data
        number += 1


def shard_bytes(rows: Sequence[tuple[str, bytes, str | None]], rows_per_group: int) -> bytes:
    """The Parquet file of (key, image, label) rows, in their order."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(STORED_SCHEMA)
    buffer = io.BytesIO()
    # The images are compressed already; dictionaries and statistics of them would only cost memory.
    # Checksums, because many a damaged JPEG decodes, to something else.
    pq.write_table(
        pa.table(columns, schema=STORED_SCHEMA),
        buffer,
        row_group_size=rows_per_group,
        compression="zstd",
        use_dictionary=["label"],
        write_statistics=["key", "label"],
        write_page_checksum=True,
    )
    return buffer.getvalue()
