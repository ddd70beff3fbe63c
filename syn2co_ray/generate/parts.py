"""What is done of an unfinished shard, kept in the store: a lost actor or node costs the batches in flight.

    <prefix>/_unfinished/<file of the shard without ending>/<slot>-<attempt>.parquet

Readers of data sets pass over folders with a leading underscore. A part is whole or absent, like a shard, and
goes when its shard is there.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..storage import Store, delete_folder, list_files, publish_bytes, read_bytes

FOLDER = "_unfinished"
SAVE_EVERY_S = 1.0
"""Batches that take longer are saved one by one, shorter ones together: saving stays a small part."""

Row = dict[str, Any]


class Parts:
    """Rows of one shard that have been made so far, refused ones too."""

    def __init__(self, store: Store, shard_file: str, schema: pa.Schema, save_every_s: float = SAVE_EVERY_S):
        self.store = store.child(FOLDER).child(shard_file.removesuffix(".parquet"))
        self.schema, self.save_every_s = schema, save_every_s
        self._unsaved: list[Row] = []
        self._saved_at = time.monotonic()

    def load(self) -> dict[tuple[int, int], Row]:
        """Rows by slot and attempt that an actor before this one left."""
        rows: dict[tuple[int, int], Row] = {}
        for info in list_files(self.store, missing_ok=True):
            for row in pq.read_table(io.BytesIO(read_bytes(self.store, info.path))).to_pylist():
                rows[row["slot"], row["attempt"]] = row
        return rows

    def add(self, rows: Sequence[Row]) -> None:
        """Take a batch; publish it with those that wait, unless the last was published a moment ago."""
        self._unsaved += rows
        if time.monotonic() - self._saved_at < self.save_every_s:
            return
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self._unsaved, schema=self.schema), buffer, compression="none")
        first = self._unsaved[0]
        publish_bytes(self.store, f"{first['slot']:09d}-{first['attempt']}.parquet", buffer.getvalue())
        self._unsaved, self._saved_at = [], time.monotonic()

    def clear(self) -> None:
        """Delete what was kept: the shard is there."""
        delete_folder(self.store)
