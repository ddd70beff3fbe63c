"""The record: one image with what is known about it, as it travels through the stream.

| column | type | what |
|---|---|---|
| `key` | string | stable id of the image; randomness of its augmentation derives from it |
| `image` | binary | the encoded bytes as they were found (JPEG, PNG, WebP); empty when the source has none |
| `label` | string or null | the class; an integer label becomes its decimal text |
| `origin` | string | real or generated |
| `source` | string | URI of the source it came from |
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

KEY: Final = "key"
IMAGE: Final = "image"
LABEL: Final = "label"
ORIGIN: Final = "origin"
SOURCE: Final = "source"

RECORD_SCHEMA: Final = pa.schema(
    [
        pa.field(KEY, pa.string(), nullable=False),
        pa.field(IMAGE, pa.binary(), nullable=False),
        pa.field(LABEL, pa.string()),
        pa.field(ORIGIN, pa.string(), nullable=False),
        pa.field(SOURCE, pa.string(), nullable=False),
    ]
)
STORED_SCHEMA: Final = pa.schema([RECORD_SCHEMA.field(name) for name in (KEY, IMAGE, LABEL)])
"""Columns of the Parquet shards this package writes; origin and source belong to the job that reads them."""

IMAGE_EXTENSIONS: Final = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})
"""Endings, in lower case, of the file names and tar members that are taken as images."""


def select_schema(columns: tuple[str, ...] | None) -> pa.Schema:
    """The record's schema, or the part of it that `columns` names, in the record's order."""
    if columns is None:
        return RECORD_SCHEMA
    return pa.schema([field for field in RECORD_SCHEMA if field.name in columns])


def record_table(
    keys: pa.Array | pa.ChunkedArray | list[str],
    images: pa.Array | pa.ChunkedArray | list[bytes] | None,
    labels: pa.Array | pa.ChunkedArray | list[str | None] | None,
    origin: str,
    source: str,
    columns: tuple[str, ...] | None = None,
) -> pa.Table:
    """A table of records from its columns; `None` for images gives empty bytes, for labels nulls."""
    count = len(keys)
    values = {
        KEY: keys,
        IMAGE: pa.repeat(pa.scalar(b"", pa.binary()), count) if images is None else images,
        LABEL: pa.nulls(count, pa.string()) if labels is None else labels,
        ORIGIN: pa.repeat(pa.scalar(origin, pa.string()), count),
        SOURCE: pa.repeat(pa.scalar(source, pa.string()), count),
    }
    schema = select_schema(columns)
    return pa.table({field.name: values[field.name] for field in schema}, schema=schema)
