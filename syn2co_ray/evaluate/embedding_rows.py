"""Keys and embeddings from Parquet files: those of a finished `kind: embed` job, or anybody's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..spec.errors import DataError
from ..storage import Store, exists, list_files, read_bytes, read_from
from ..storage.retry import is_from_store
from ..storage.run_layout import PROVENANCE_FILE
from .embeddings import FOLDER, MANIFEST_FILE
from .nearest import unit_rows

KEY, EMBEDDING = "key", "embedding"
ROWS_AT_ONCE = 8192

Result = TypeVar("Result")


@dataclass(frozen=True)
class EmbeddingRows:
    """Keys and embeddings, row by row."""

    keys: pa.Array
    """N strings."""
    embeddings: np.ndarray
    """(N, F) float32, each of length 1 (or 0)."""


def check_embeddings(store: Store, features: int, digest: str) -> None:
    """Look at what costs little: are there embeddings, of this width, made with these weights?

    Args:
        store: folder of the job, the folder of embeddings in it, or prefix of the files.
        features: numbers of an embedding.
        digest: of the weights; compared where a manifest says which the embeddings were made with.

    Raises:
        DataError: they are not.
        StorageError: the place cannot be read.
    """
    folder, files, made_with = _files(store)
    if made_with not in (None, digest):
        got = f"embeddings of other weights (digest {made_with[:12]})"
        raise DataError(store.uri, got, f"those of digest {digest[:12]}", "embed the images again")
    for file in files:
        rows, width = _read(folder, file, _shape)
        if rows and width != features:
            got = f"embeddings of {width} numbers" if width else _NO_COLUMNS
            raise DataError(folder.child(file).uri, got, f"of {features} numbers", "embed the images again")
        if rows:
            return
    raise DataError(store.uri, "no embedding", "what `kind: embed` writes", "mend the prefix")


def read_embedding_rows(store: Store) -> EmbeddingRows:
    """All rows: in the order of the job's manifest, else of the files' names.

    In memory once, as float32: the files' shapes are looked at before their content.

    Raises:
        DataError: no row, columns or sizes that do not fit, numbers that are missing or not finite.
        StorageError: the place cannot be read.
    """
    folder, files, _ = _files(store)
    shapes: dict[str, tuple[int, int]] = {}
    for file in files:
        rows, width = _read(folder, file, _shape)
        if width is None:
            where, step = folder.child(file).uri, "name the prefix of embeddings alone"
            raise DataError(where, _NO_COLUMNS, "both", step)
        shapes[file] = rows, width
    widths = {width for rows, width in shapes.values() if rows}
    if len(widths) != 1:
        got = f"embeddings of {' and '.join(map(str, sorted(widths)))} numbers" if widths else "no embedding"
        raise DataError(folder.uri, got, "embeddings of one size", "name what one network made")
    matrix = np.empty((sum(rows for rows, _ in shapes.values()), *widths), np.float32)
    keys: list[pa.Array] = []
    first = 0
    for file, (rows, _) in shapes.items():
        if rows:
            keys += _filled(folder, file, matrix[first : first + rows])
        first += rows
    return EmbeddingRows(pa.concat_arrays(keys), matrix)


def _filled(folder: Store, file: str, into: np.ndarray) -> list[pa.Array]:
    """The keys of a file; its embeddings, of length 1, stand in `into` afterwards."""

    def fault(got: str) -> DataError:
        return DataError(folder.child(file).uri, got, "a finite number each", "make them again")

    def fill(parquet: pq.ParquetFile) -> list[pa.Array]:
        if _shape(parquet) != into.shape:
            raise fault("a file that was written again meanwhile")
        keys, first = [], 0
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=[KEY, EMBEDDING]):
            numbers = batch.column(EMBEDDING).flatten()
            if batch.column(EMBEDDING).null_count or numbers.null_count:
                raise fault("embeddings without a value")
            found = numbers.to_numpy(zero_copy_only=False).reshape(len(batch), -1)
            if not np.isfinite(found).all():
                raise fault("embeddings that are not finite")
            into[first : first + len(batch)] = unit_rows(found)
            first += len(batch)
            keys.append(batch.column(KEY).cast(pa.large_string()))
        return keys

    return _read(folder, file, fill)


_NO_COLUMNS = f"no columns `{KEY}` and `{EMBEDDING}` (a list of fixed size of float16 or float32)"


def _files(store: Store) -> tuple[Store, list[str], str | None]:
    """The folder with the files, those that count, and the digest of their weights if a manifest says it."""
    for folder in (store.child(FOLDER), store):
        if exists(folder, MANIFEST_FILE):
            manifest = json.loads(read_bytes(folder, MANIFEST_FILE))
            return folder, [shard["file"] for shard in manifest["shards"]], manifest.get("weights")
    if exists(store, PROVENANCE_FILE):
        got = f"no {FOLDER}/{MANIFEST_FILE}: the job has not finished"
        raise DataError(store.uri, got, "a finished job of kind embed", "run it to its end")
    return store, sorted(info.path for info in list_files(store) if info.path.endswith(".parquet")), None


def _shape(parquet: pq.ParquetFile) -> tuple[int, int | None]:
    """Rows of a Parquet file, and the numbers of an embedding; None where it has none."""
    schema = parquet.schema_arrow
    if not {KEY, EMBEDDING} <= set(schema.names):
        return parquet.metadata.num_rows, None
    kind = schema.field(EMBEDDING).type
    fits = pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)
    return parquet.metadata.num_rows, kind.list_size if fits else None


def _read(folder: Store, file: str, read: Callable[[pq.ParquetFile], Result]) -> Result:
    """What `read` makes of a Parquet file.

    Raises:
        DataError: the file is broken.
        StorageError: it cannot be read.
    """

    def opened(stream: pa.NativeFile) -> Result:
        try:
            return read(pq.ParquetFile(stream, page_checksum_verification=True))
        except (pa.ArrowException, OSError) as error:
            if is_from_store(error):
                raise
            words = (str(error).splitlines() or [type(error).__name__])[0]
            where = folder.child(file).uri
            raise DataError(where, f"damaged ({words})", "a whole Parquet file", "make it again") from error

    return read_from(folder, file, opened)
