"""What a source format must offer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from ...spec.errors import DataError
from ...spec.source import SourceSpec
from ...storage import FileInfo, Store
from ..source_index import SourceIndex

Item = TypeVar("Item")
Result = TypeVar("Result")

FILES_AT_ONCE: Final = 1024


class Reader(Protocol):
    """One source format: how its files become fragments, and a fragment becomes records.

    Readers hold no state, so that one of each serves all threads of a process.
    """

    extensions: frozenset[str]
    """Endings of the file names that belong to the format, in lower case and without the dot."""

    def build(self, source: SourceSpec, store: Store, files: list[FileInfo], threads: int) -> SourceIndex:
        """Index `files`: the source's files with one of `extensions`, sorted, at least one.

        Raises:
            DataError: no image in them, files that contradict each other, a damaged file.
        """

    def read(
        self,
        index: SourceIndex,
        store: Store,
        fragment: int,
        rows: np.ndarray | None,
        columns: tuple[str, ...] | None,
    ) -> pa.Table:
        """Records of one fragment in the record's schema.

        Args:
            index: what `build` returned.
            store: the place `index.source.uri` names.
            fragment: its number, below `index.num_fragments`.
            rows: numbers inside the fragment, in the order wanted; all of them when None.
            columns: names of the record's columns to give; all of them when None.
        """


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result]:
    """`function` of each item, in their order; no more than FILES_AT_ONCE results wait at a time.

    The pool is the caller's to close: a generator that is left early closes its own whenever it is collected,
    in whichever thread.
    """
    for start in range(0, len(items), FILES_AT_ONCE):
        yield from pool.map(function, items[start : start + FILES_AT_ONCE])


def extension(path: str) -> str:
    """Ending of a file name after its last dot, in lower case; empty when it has none."""
    name = path.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def extension_counts(paths: Sequence[str]) -> str:
    """The commonest endings in words, such as `12 .txt, 3 .json`."""
    counts: dict[str, int] = {}
    for path in paths:
        ending = extension(path)
        counts[ending] = counts.get(ending, 0) + 1
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(
        f"{count} .{ending}" if ending else f"{count} without an ending" for ending, count in common[:5]
    )
    return text + (f" and {len(common) - 5} other kinds" if len(common) > 5 else "")


def no_images(source: SourceSpec, got: str, allowed: str) -> DataError:
    """The error for a source in which there is nothing to train on."""
    return DataError(
        where=source.uri,
        got=got,
        allowed=allowed,
        next_step="check the source's `uri` and `format` in the job",
    )


def changed(index: SourceIndex, fragment: int, got: str) -> DataError:
    """The error for a file that no longer holds what the index says."""
    file = index.files[index.fragment_file[fragment]]
    return DataError(
        where=f"{index.source.uri}/{file}",
        got=f"{got}; the file changed after it was indexed",
        allowed=f"{index.fragment_rows[fragment]} records in fragment {fragment}",
        next_step="leave a source's files alone while a run uses it; start a new run to index it again",
    )
