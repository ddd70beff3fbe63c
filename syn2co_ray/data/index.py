"""Index a source and read records by fragment and row.

index = build_index(source, options)                     once, in the driver; footers and tar headers only
data = save_index(index); index = load_index(data)       kept in the run's folder
table = read_rows(index, fragment, rows, options)        anywhere; records in the order asked
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa

from ..spec.errors import DataError
from ..spec.source import ObjectStoreSpec, SourceFormat, SourceSpec
from ..storage import FileInfo, Store, list_files, open_store, read_bytes
from .fragment_cache import fragment_key, read_through
from .readers import READERS
from .readers.protocol import extension, extension_counts
from .record import IMAGE
from .source_index import SourceIndex, load_index, save_index

__all__ = ["SourceIndex", "build_index", "load_index", "read_fragments", "read_rows", "save_index"]

INDEX_THREADS = 16
MANIFEST = "manifest.json"


def build_index(source: SourceSpec, options: ObjectStoreSpec, threads: int = INDEX_THREADS) -> SourceIndex:
    """List a source's files and find their fragments; no image is read.

    A URI whose last part has * or ? takes the files of that folder whose names match (`.../train-*.parquet`).
    The format is found from the file names when `source.format` is None. Names that start with a dot, and
    for Parquet also those with a leading underscore (half-written output of other tools), are left out.

    Raises:
        StorageError: the place cannot be listed or read.
        DataError: no file of the format, several formats, no image, contradicting or damaged files, files of
            the place's manifest missing.
    """
    store, pattern = _folder_and_pattern(source.uri, options)
    files = [file for file in list_files(store, recursive=not pattern) if not _hidden(file.path, ".")]
    if pattern:
        files = [file for file in files if fnmatchcase(file.path, pattern)]
    uri = store.child(pattern).uri
    # A picture or a note in a folder such as _report makes no other format of the whole.
    shown = [file for file in files if not _hidden(file.path, "_")]
    kind = source.format or _find_format(uri, shown or files)
    reader = READERS[kind]
    mine = [file for file in files if extension(file.path) in reader.extensions]
    if kind == "parquet":
        mine = [file for file in mine if not _hidden(file.path, "_")]
    if not mine:
        raise _no_file_of(kind, uri, files)
    if not pattern and any(file.path == MANIFEST for file in files):
        _check_manifest(store, {file.path for file in files})
    resolved = source.model_copy(update={"uri": uri, "format": kind})
    index = reader.build(resolved, store, mine, threads)
    taken = {file.path for file in mine}
    others = [file.path for file in files if file.path not in taken and not _hidden(file.path, "_")]
    note = (
        f"{index.schema_note}; other files left out: {extension_counts(others)}"
        if others
        else index.schema_note
    )
    times = [file.modified_ns for file in mine]
    modified = None if None in times else np.asarray(times, dtype=np.int64)
    return replace(index, schema_note=note, file_modified_ns=modified)


def read_rows(
    index: SourceIndex,
    fragment: int,
    rows: np.ndarray | None,
    options: ObjectStoreSpec,
    columns: tuple[str, ...] | None = None,
) -> pa.Table:
    """Records of one fragment, in the record's schema.

    Args:
        index: of the source.
        fragment: its number, 0 to `index.num_fragments` - 1.
        rows: row numbers inside the fragment, in the order wanted (repeats allowed); all when None.
        options: how to reach the store.
        columns: the record's columns wanted, all when None; without `image`, no image is read (except from
            WebDataset, where labels lie between the images).

    Raises:
        IndexError: no such fragment or row.
        StorageError, DataError: the file cannot be read, or changed after it was indexed.
    """
    if not 0 <= fragment < index.num_fragments:
        raise IndexError(f"fragment {fragment} of {index.num_fragments}")
    count = int(index.fragment_rows[fragment])
    if rows is not None and len(rows) and not (0 <= np.min(rows) and np.max(rows) < count):
        raise IndexError(f"rows {np.min(rows)} to {np.max(rows)} of {count} in fragment {fragment}")
    assert index.source.format is not None
    store, _ = _folder_and_pattern(index.source.uri, options)
    if options.cache is not None and (rows is None or len(rows)) and (columns is None or IMAGE in columns):
        key = fragment_key(index, store, fragment)
        if key is not None:
            return read_through(options.cache, key, index, store, fragment, rows, columns)
    return READERS[index.source.format].read(index, store, fragment, rows, columns)


def read_fragments(
    index: SourceIndex,
    requests: Sequence[tuple[int, np.ndarray | None]],
    options: ObjectStoreSpec,
    threads: int = 8,
    columns: tuple[str, ...] | None = None,
) -> list[pa.Table]:
    """`read_rows` for each (fragment, rows), in the order of the requests, `threads` at a time."""
    if len(requests) <= 1 or threads <= 1:
        return [read_rows(index, fragment, rows, options, columns) for fragment, rows in requests]
    with ThreadPoolExecutor(min(threads, len(requests))) as pool:
        return list(
            pool.map(lambda request: read_rows(index, request[0], request[1], options, columns), requests)
        )


def _folder_and_pattern(uri: str, options: ObjectStoreSpec) -> tuple[Store, str]:
    folder, _, last = uri.rstrip("/").rpartition("/")
    if "*" in last or "?" in last:
        return open_store(folder or ("/" if uri.startswith("/") else "."), options), last
    return open_store(uri, options), ""


def _check_manifest(store: Store, listed: set[str]) -> None:
    """What `generate` and `ingest` say that they wrote has to be in the list."""
    try:
        shards = json.loads(read_bytes(store, MANIFEST))["shards"]
        missing = [shard["file"] for shard in shards if shard["file"] not in listed]
    except (ValueError, KeyError, TypeError):
        return  # somebody else's manifest
    if missing:
        raise DataError(
            where=store.uri,
            got=f"{len(missing)} of the {len(shards)} shards in {MANIFEST} are not listed, such as "
            f"{missing[0]}",
            allowed="all of them",
            next_step="start again if the store left them out; else write them again: the command that made "
            "the data set makes what is missing",
        )


def _hidden(path: str, mark: str) -> bool:
    return any(part.startswith(mark) for part in path.split("/"))


def _find_format(uri: str, files: list[FileInfo]) -> SourceFormat:
    endings = {extension(file.path) for file in files}
    found = [kind for kind, reader in READERS.items() if endings & reader.extensions]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _no_file_of(None, uri, files)
    raise DataError(
        where=uri,
        got=f"files of several formats ({', '.join(found)})",
        allowed="files of one format, or `format` in the source",
        next_step=f"say which one is meant with the source's `format`: {' or '.join(found)}",
    )


def _no_file_of(kind: SourceFormat | None, uri: str, files: list[FileInfo]) -> DataError:
    kinds = READERS if kind is None else {kind: READERS[kind]}
    allowed = "; ".join(f"{name}: .{', .'.join(sorted(reader.extensions))}" for name, reader in kinds.items())
    found = extension_counts([file.path for file in files])
    return DataError(
        where=uri,
        got=f"none of the {len(files)} files can hold images: {found}" if files else "no file matches",
        allowed=allowed,
        next_step="check the source's `uri` and `format` in the job",
    )
