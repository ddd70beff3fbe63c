"""Records of some fragments as a network sees them: read and decoded while it works on those before."""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..augment.eval_view import eval_view
from ..data.decode import UnreadableImage, decode_rgb
from ..data.index import SourceIndex, read_fragments
from .features import Alter, fragment_groups
from .labelled import LabelledSet, unlabelled

CONTENT_BYTES = 16
READ_THREADS = 4
BATCHES_AHEAD = 2
"""Decoded and not yet embedded: bounds memory when the network is the slower part."""


@dataclass(frozen=True)
class Record:
    """One image: where it stands, what it is called, and the evaluation view of it."""

    key: str
    label: str | None
    file: str
    row: int
    content: bytes
    view: np.ndarray | None
    """(3, S, S) uint8; None when it cannot be decoded."""
    fault: str = ""
    """Why not."""


def content_hash(image: bytes) -> bytes:
    """What tells encoded images apart."""
    return hashlib.blake2b(image, digest_size=CONTENT_BYTES).digest()


def shown_batches(
    labelled: LabelledSet,
    index: SourceIndex,
    fragments: Sequence[int],
    alter: Alter | None = None,
    decode_threads: int = 2,
) -> Iterator[list[Record]]:
    """All records of the fragments in order, `images_per_batch` at a time, the last batch smaller.

    Raises:
        DataError: a record without a label, where labels are needed; files that changed.
        StorageError: files that cannot be read.
    """
    show = functools.partial(_shown, labelled=labelled, index=index, alter=alter)
    with ThreadPoolExecutor(decode_threads, "decode") as decoders, ThreadPoolExecutor(1, "read") as reader:
        waiting: deque[list[Future[Record]]] = deque()
        try:
            read = functools.partial(_read, labelled, index)
            groups = fragment_groups(fragments, index.fragment_rows, labelled.images_per_batch)
            for rows in _batches(_one_ahead(reader, read, groups), labelled.images_per_batch):
                waiting.append([decoders.submit(show, row) for row in rows])
                if len(waiting) > BATCHES_AHEAD:
                    yield [record.result() for record in waiting.popleft()]
            while waiting:
                yield [record.result() for record in waiting.popleft()]
        finally:
            for record in (record for batch in waiting for record in batch):
                record.cancel()


def _one_ahead(
    reader: ThreadPoolExecutor, read: Callable[[list[int]], list[dict[str, Any]]], groups: Iterator[list[int]]
) -> Iterator[list[dict[str, Any]]]:
    """What is read of each group, the next one being read meanwhile."""
    ahead: Future[list[dict[str, Any]]] | None = None
    for group in groups:
        coming = reader.submit(read, group)
        if ahead is not None:
            yield ahead.result()
        ahead = coming
    if ahead is not None:
        yield ahead.result()


def _batches(parts: Iterator[list[dict[str, Any]]], images_per_batch: int) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    for part in parts:
        held += part
        while len(held) >= images_per_batch:
            yield held[:images_per_batch]
            del held[:images_per_batch]
    if held:
        yield held


def _read(labelled: LabelledSet, index: SourceIndex, fragments: list[int]) -> list[dict[str, Any]]:
    tables = read_fragments(index, [(f, None) for f in fragments], labelled.object_store, READ_THREADS)
    rows = []
    for fragment, table in zip(fragments, tables, strict=True):
        file, first = index.files[index.fragment_file[fragment]], int(index.fragment_first_row[fragment])
        for place, row in enumerate(table.select(["key", "image", "label"]).to_pylist()):
            rows.append({**row, "file": file, "row": first + place})
    return rows


def _shown(row: dict[str, Any], labelled: LabelledSet, index: SourceIndex, alter: Alter | None) -> Record:
    if row["label"] is None and labelled.labels_needed:
        raise unlabelled("data.eval", index, row["key"])
    encoded = row.pop("image") or b""
    content = content_hash(encoded)
    try:
        image = decode_rgb(encoded, pixels_max=labelled.image_pixels_max)
    except UnreadableImage as error:
        return Record(**row, content=content, view=None, fault=error.reason)
    view = eval_view(image, labelled.image_size)
    return Record(**row, content=content, view=view if alter is None else alter(view, row["key"]))
