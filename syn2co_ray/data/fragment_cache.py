"""Fragments of remote sources, kept as Arrow tables in the node's local cache.

A whole fragment is what the formats read at once, whichever rows are asked for, and what the plan asks for
again in the next epoch. Its key says which object it came from, as the index found it: path, size, and time
of writing. So a hit costs no request, and an index that was built after an object was replaced never gets the
old one (S3 cannot tell two of one size written in the same second). A run that goes on with its stored index
may see the bytes it was started with.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from ..spec.source import CacheSpec
from ..storage import Store, local_cache
from .readers import READERS
from .record import select_schema
from .source_index import SourceIndex

FORMAT_VERSION = 1
LOCAL_SCHEMES = ("file", "memory")


def fragment_key(index: SourceIndex, store: Store, fragment: int) -> str | None:
    """What names the fragment's contents; None when they need no cache, or nothing tells a new version."""
    # A path on the hub contains its commit, so that its contents never change.
    if store.scheme in LOCAL_SCHEMES or (index.file_modified_ns is None and store.scheme != "hf"):
        return None
    number = int(index.fragment_file[fragment])
    arrays = {name: array[fragment].item() for name, array in sorted(index.reader_arrays.items())}
    modified = None if index.file_modified_ns is None else int(index.file_modified_ns[number])
    return json.dumps(
        [
            FORMAT_VERSION,
            store.endpoint,
            store.child(index.files[number]).uri,
            int(index.file_bytes[number]),
            modified,
            int(index.fragment_rows[fragment]),
            int(index.fragment_first_row[fragment]),
            arrays,
            index.source.model_dump(mode="json", exclude={"share"}),
        ],
        sort_keys=True,
    )


def read_through(
    cache_spec: CacheSpec,
    key: str,
    index: SourceIndex,
    store: Store,
    fragment: int,
    rows: np.ndarray | None,
    columns: tuple[str, ...] | None,
) -> pa.Table:
    """Records of a fragment, from the cache or from its file, which is then kept.

    Arguments as `Reader.read` takes them; `key` is the fragment's.
    """
    cache = local_cache(cache_spec)
    data = cache.get(key)
    if data is not None:
        table = pa.ipc.open_stream(data).read_all()
    else:
        assert index.source.format is not None
        table = READERS[index.source.format].read(index, store, fragment, None, None)
        cache.put(key, _bytes_of(table))
    if rows is not None:
        table = table.take(pa.array(rows, pa.int64()))
    return table.select(select_schema(columns).names)


def _bytes_of(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
