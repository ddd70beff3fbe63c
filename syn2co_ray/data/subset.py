"""A part of a source as shards in shuffled order: the first n images of each class, or those of some keys.

Two passes: keys and labels of the whole source, then the images chosen. Their bytes wait in a temporary file,
so that memory holds keys and labels only, and each fragment of the source is read once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from typing import IO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..spec.data import SubsetStep
from ..spec.errors import DataError
from ..spec.source import ObjectStoreSpec
from .index import SourceIndex, build_index, read_fragments
from .record import IMAGE, KEY, LABEL
from .shards import key_order, write_shards

ROWS_PER_SHARD: Final = 1250
ROWS_PER_GROUP: Final = 128
FRAGMENTS_AT_ONCE: Final = 16


def subset_shards(
    step: SubsetStep, options: ObjectStoreSpec, log: Callable[[str], None]
) -> Iterator[tuple[str, int, bytes]]:
    """Shards (name, rows, Parquet bytes) with the columns key, image and label.

    Raises:
        DataError: a row of the source has no label.
    """
    index = build_index(step.source, options)
    keys, labels = _keys_and_labels(index, options)
    rows = first_of_each_class(keys, labels, step.images_per_class)
    _log_small_classes(labels, step.images_per_class, log)
    yield from _shards_of(index, rows, keys, labels, options)


def shards_of_keys(
    index: SourceIndex, wanted: Collection[str], options: ObjectStoreSpec
) -> Iterator[tuple[str, int, bytes]]:
    """As `subset_shards`, of the records with these keys.

    Raises:
        DataError: a row of the source has no label.
    """
    keys, labels = _keys_and_labels(index, options)
    rows = np.flatnonzero(pc.is_in(keys, value_set=pa.array(sorted(wanted), keys.type)).to_numpy())
    yield from _shards_of(index, rows, keys, labels, options)


def _shards_of(
    index: SourceIndex,
    rows: np.ndarray,
    keys: pa.ChunkedArray,
    labels: pa.ChunkedArray,
    options: ObjectStoreSpec,
) -> Iterator[tuple[str, int, bytes]]:
    # Reading order is the source's; the shards' order comes from the keys.
    rows.sort()
    chosen_keys, chosen_labels = keys.take(rows).to_pylist(), labels.take(rows).to_pylist()
    with tempfile.TemporaryFile() as spool:
        ends = np.cumsum([spool.write(image) for image in _images(index, rows, options)], dtype=np.int64)
        begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])

        def row(number: int) -> tuple[str, bytes, str]:
            image = _read_at(spool, int(begins[number]), int(ends[number]))
            return chosen_keys[number], image, chosen_labels[number]

        yield from write_shards(map(row, key_order(chosen_keys).tolist()), ROWS_PER_SHARD, ROWS_PER_GROUP)


def first_of_each_class(keys: pa.ChunkedArray, labels: pa.ChunkedArray, images_per_class: int) -> np.ndarray:
    """Positions (M,) int64 of the `images_per_class` smallest keys of each label, in no promised order."""
    by_key = pc.sort_indices(pa.table({"key": keys}), sort_keys=[("key", "ascending")]).to_numpy()
    codes = labels.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)[by_key]
    by_class = np.argsort(codes, kind="stable")
    sorted_codes = codes[by_class]
    rank = np.arange(len(codes)) - np.searchsorted(sorted_codes, sorted_codes)
    return by_key[by_class][rank < images_per_class].astype(np.int64)


def _keys_and_labels(index: SourceIndex, options: ObjectStoreSpec) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    tables = []
    for begin in range(0, index.num_fragments, FRAGMENTS_AT_ONCE):
        requests = [(f, None) for f in range(begin, min(begin + FRAGMENTS_AT_ONCE, index.num_fragments))]
        tables += read_fragments(index, requests, options, FRAGMENTS_AT_ONCE, columns=(KEY, LABEL))
    table = pa.concat_tables(tables)
    unlabelled = table[LABEL].null_count
    if unlabelled:
        raise DataError(
            where=index.source.uri,
            got=f"{unlabelled} of {table.num_rows} records have no label",
            allowed="a source in which every image has a label",
            next_step="name the column with the source's `label_column`, or take another source",
        )
    return table[KEY], table[LABEL]


def _images(index: SourceIndex, rows: np.ndarray, options: ObjectStoreSpec) -> Iterator[bytes]:
    """Image bytes of the source's rows (sorted numbers over the whole source), a few fragments at a time."""
    ends = np.cumsum(index.fragment_rows, dtype=np.int64)
    fragment_of_row = np.searchsorted(ends, rows, side="right")
    fragments, first_places = np.unique(fragment_of_row, return_index=True)
    parts = np.split(rows, first_places[1:])
    requests: list[tuple[int, np.ndarray | None]] = [
        (int(fragment), part - (ends[fragment] - index.fragment_rows[fragment]))
        for fragment, part in zip(fragments, parts, strict=True)
    ]
    for begin in range(0, len(requests), FRAGMENTS_AT_ONCE):
        batch = requests[begin : begin + FRAGMENTS_AT_ONCE]
        for table in read_fragments(index, batch, options, FRAGMENTS_AT_ONCE, columns=(IMAGE,)):
            for image in table[IMAGE]:
                yield image.as_py()


def _read_at(file: IO[bytes], begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)


def _log_small_classes(labels: pa.ChunkedArray, images_per_class: int, log: Callable[[str], None]) -> None:
    for pair in labels.value_counts().to_pylist():
        if pair["counts"] < images_per_class:
            log(f"class {pair['values']!r} has only {pair['counts']} of {images_per_class} images")
