"""Parquet files with one encoded image a row, as plain bytes or in Hugging Face's {bytes, path} struct."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...spec.errors import DataError
from ...spec.source import SourceSpec
from ...storage import FileInfo, Store, with_retries
from ...storage.retry import is_from_store
from ..record import IMAGE, KEY, LABEL, record_table
from ..source_index import SourceIndex, make_index
from .parquet_columns import describe, difference, resolve_columns
from .protocol import changed, in_order, no_images

Result = TypeVar("Result")


class ParquetReader:
    """A fragment is a row group; only the image, label and key columns are read."""

    extensions = frozenset({"parquet"})

    def build(self, source: SourceSpec, store: Store, files: list[FileInfo], threads: int) -> SourceIndex:
        """Read all footers; the columns must be the same in all files."""
        _footer.cache_clear()  # files may have been rewritten since
        resolved, first_schema, known = source, pa.schema([]), set[pa.Schema]()
        fragments, row_groups = [], []
        with ThreadPoolExecutor(threads) as pool:
            contents = in_order(pool, lambda file: _contents(store.child(file.path)), files)
            for number, (schema, rows_of_groups) in enumerate(contents):
                if not known:
                    resolved = resolve_columns(source, schema, store.child(files[0].path).uri)
                    first_schema = schema
                elif schema not in known:
                    _check_same(source, store, files[0], first_schema, files[number], schema)
                known.add(schema)
                first_row = 0
                for row_group, rows in enumerate(rows_of_groups):
                    if rows:
                        fragments.append((number, rows, first_row))
                        row_groups.append(row_group)
                    first_row += rows
        if not fragments:
            raise no_images(source, f"{len(files)} Parquet files without a single row", "at least one image")
        return make_index(
            resolved,
            [(file.path, file.size_bytes) for file in files],
            fragments,
            {"row_group": np.asarray(row_groups, dtype=np.int32)},
            schema_note=describe(resolved, first_schema),
        )

    def read(
        self,
        index: SourceIndex,
        store: Store,
        fragment: int,
        rows: np.ndarray | None,
        columns: tuple[str, ...] | None,
    ) -> pa.Table:
        """The row group's image, label and key columns, then the rows asked for."""
        source, number = index.source, int(index.fragment_file[fragment])
        file = store.child(index.files[number])
        names = {IMAGE: source.image_column, LABEL: source.label_column, KEY: source.key_column}
        needed = [name for column, name in names.items() if name and (columns is None or column in columns)]
        table = _read_row_group(file, index, fragment, needed)
        positions = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
        if rows is not None:
            table = table.take(pa.array(positions))
        if source.key_column in table.column_names:
            keys = _keys(table[source.key_column], file, source.key_column)
        else:
            first_row = int(index.fragment_first_row[fragment])
            keys = pa.array(
                [f"{index.files[number]}:{first_row + row}" for row in positions.tolist()], pa.string()
            )
        images = (
            _image_bytes(table[source.image_column]) if source.image_column in table.column_names else None
        )
        labels = _text(table[source.label_column]) if source.label_column in table.column_names else None
        return record_table(keys, images, labels, source.origin, source.uri, columns)


def _contents(file: Store) -> tuple[pa.Schema, list[int]]:
    # A whole footer takes tens of kilobytes, which 100,000 files have not room for.
    footer = _read_footer(file)
    schema = pq.ParquetFile(pa.BufferReader(b""), metadata=footer).schema_arrow
    return schema.remove_metadata(), [footer.row_group(n).num_rows for n in range(footer.num_row_groups)]


def _check_same(
    source: SourceSpec,
    store: Store,
    first: FileInfo,
    schema: pa.Schema,
    other: FileInfo,
    other_schema: pa.Schema,
) -> None:
    uris = store.child(first.path).uri, store.child(other.path).uri
    columns = resolve_columns(source, schema, uris[0]), resolve_columns(source, other_schema, uris[1])
    differs = difference(columns[0], schema, columns[1], other_schema)
    if differs:
        raise DataError(
            where=source.uri,
            got=f"files of different schemas: {differs[0]} in {uris[0]}, {differs[1]} in {uris[1]}",
            allowed="the same image, label and key columns in all files of a source",
            next_step="make them two sources, or set image_column, label_column and key_column",
        )


@lru_cache(maxsize=256)
def _footer(file: Store) -> pq.FileMetaData:
    # Remembered per process, because every read of a fragment needs it again.
    return _read_footer(file)


def _read_footer(file: Store) -> pq.FileMetaData:
    def read() -> pq.FileMetaData:
        with file.filesystem.open_input_file(file.path) as stream:
            return pq.ParquetFile(stream).metadata

    return with_retries(lambda: _decoded(read, file), what=f"read {file.uri}")


def _read_row_group(file: Store, index: SourceIndex, fragment: int, columns: list[str]) -> pa.Table:
    size_bytes = int(index.file_bytes[index.fragment_file[fragment]])
    rows, row_group = int(index.fragment_rows[fragment]), int(index.reader_arrays["row_group"][fragment])
    if not columns:
        # Only the number of rows is needed.
        return pa.table({"": pa.nulls(rows)})

    def read() -> pa.Table:
        footer = _footer(file)
        with file.filesystem.open_input_file(file.path) as stream:
            if stream.size() != size_bytes:
                raise changed(index, fragment, f"{stream.size()} bytes instead of {size_bytes}")
            if row_group >= footer.num_row_groups or footer.row_group(row_group).num_rows != rows:
                raise changed(index, fragment, f"other row groups ({footer.num_row_groups})")
            parquet = pq.ParquetFile(
                stream, metadata=footer, pre_buffer=True, page_checksum_verification=True
            )
            return parquet.read_row_group(row_group, columns=columns, use_threads=False)

    return with_retries(lambda: _decoded(read, file), what=f"read {file.uri}")


def _decoded(read: Callable[[], Result], file: Store) -> Result:
    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        if is_from_store(error):
            raise
        raise DataError(
            where=file.uri,
            got=f"no whole Parquet file ({error})",
            allowed="Parquet files as they were written",
            next_step="copy or write the file again, or move it out of the source",
        ) from error


def _keys(column: pa.ChunkedArray, file: Store, name: str | None) -> pa.ChunkedArray:
    if column.null_count:
        raise DataError(
            where=file.uri,
            got=f"{column.null_count} rows without a key in column {name!r}",
            allowed="a key for every row",
            next_step="fill the column, or rename it so that file name and row number are the key",
        )
    return _text(column)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string())


def _image_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Encoded bytes; a null row or null bytes become empty bytes, which no decoder accepts."""
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    return pc.fill_null(column.cast(pa.binary()), b"")
