"""Keys and embeddings from Parquet files: those of a finished `kind: embed` job, or anybody's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..spec.errors import DataError
from ..storage import Store, exists, list_files, read_bytes, read_from
from ..storage.run_layout import PROVENANCE_FILE
from .embeddings import FOLDER, MANIFEST_FILE

KEY, EMBEDDING = "key", "embedding"


@dataclass(frozen=True)
class EmbeddingRows:
    """Keys and embeddings, row by row."""

    keys: pa.Array
    """N strings."""
    embeddings: np.ndarray
    """(N, F) float32."""


def check_embeddings(store: Store, features: int, digest: str) -> None:
    """Look at what costs little: are there embeddings, of this width, made with these weights?

    Args:
        store: folder of the job, or prefix of the files.
        features: numbers of an embedding.
        digest: of the weights; compared where the folder says which it was made with.

    Raises:
        DataError: they are not.
        StorageError: the place cannot be read.
    """
    if exists(store, PROVENANCE_FILE):
        made = json.loads(read_bytes(store, PROVENANCE_FILE))
        made_with = made.get("weights", {}).get("digest", digest)
        if made_with != digest:
            got = f"embeddings of other weights (digest {made_with[:12]})"
            raise DataError(store.uri, got, f"those of digest {digest[:12]}", "embed the images again")
    folder, files = _files(store)
    for file in files:
        rows, width = read_from(folder, file, _shape)
        if rows and width != features:
            got = f"embeddings of {width} numbers" if width else _NO_COLUMNS
            raise DataError(folder.child(file).uri, got, f"of {features} numbers", "embed the images again")
        if rows:
            return
    raise DataError(store.uri, "no embedding", "what `kind: embed` writes", "mend the prefix")


def read_embedding_rows(store: Store) -> EmbeddingRows:
    """All rows: in the order of the job's manifest, else of the files' names.

    Raises:
        DataError: no row, columns or sizes that do not fit, numbers that are missing or not finite.
        StorageError: the place cannot be read.
    """
    folder, files = _files(store)
    tables = [table for file in files if len(table := _table(folder, file))]
    widths = {table.schema.field(EMBEDDING).type.list_size for table in tables}
    if len(widths) != 1:
        got = f"embeddings of {' and '.join(map(str, sorted(widths)))} numbers" if widths else "no embedding"
        raise DataError(folder.uri, got, "embeddings of one size", "name what one network made")
    columns = [chunk for table in tables for chunk in table.column(EMBEDDING).chunks]
    if any(column.null_count or column.flatten().null_count for column in columns):
        raise DataError(folder.uri, "embeddings without a value", "a number each", "make them again")
    (width,) = widths
    matrix = np.concatenate(
        [column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for column in columns],
        dtype=np.float32,
    )
    if not np.isfinite(matrix).all():
        raise DataError(folder.uri, "embeddings that are not finite", "finite numbers", "make them again")
    keys = [chunk.cast(pa.large_string()) for table in tables for chunk in table.column(KEY).chunks]
    return EmbeddingRows(pa.concat_arrays(keys), matrix)


_NO_COLUMNS = f"no columns `{KEY}` and `{EMBEDDING}` (a list of fixed size of float16 or float32)"


def _files(store: Store) -> tuple[Store, list[str]]:
    """The folder with the files, and those that count."""
    for folder in (store.child(FOLDER), store):
        if exists(folder, MANIFEST_FILE):
            manifest = json.loads(read_bytes(folder, MANIFEST_FILE))
            return folder, [shard["file"] for shard in manifest["shards"]]
    if exists(store, PROVENANCE_FILE):
        got = f"no {FOLDER}/{MANIFEST_FILE}: the job has not finished"
        raise DataError(store.uri, got, "a finished job of kind embed", "run it to its end")
    return store, sorted(info.path for info in list_files(store) if info.path.endswith(".parquet"))


def _shape(file: Any) -> tuple[int, int | None]:
    """Rows of a Parquet file, and the numbers of an embedding; None where it has none."""
    found = pq.ParquetFile(file)
    return found.metadata.num_rows, _width_in(found.schema_arrow)


def _width_in(schema: pa.Schema) -> int | None:
    if not {KEY, EMBEDDING} <= set(schema.names):
        return None
    kind = schema.field(EMBEDDING).type
    fits = pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)
    return kind.list_size if fits else None


def _table(folder: Store, file: str) -> pa.Table:
    def read(opened: Any) -> pa.Table | None:
        found = pq.ParquetFile(opened)
        return None if _width_in(found.schema_arrow) is None else found.read([KEY, EMBEDDING])

    uri = folder.child(file).uri
    try:
        table = read_from(folder, file, read)
    except pa.ArrowInvalid as error:
        raise DataError(uri, str(error), "a whole Parquet file", "make it again") from None
    if table is None:
        raise DataError(uri, _NO_COLUMNS, "both", "name the prefix of embeddings alone")
    return table
