"""What a source holds, known before any image is read: files, fragments, rows."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..spec.errors import DataError
from ..spec.source import SourceSpec

FORMAT_VERSION = 1
_ARRAYS = {
    "file_bytes": np.int64,
    "fragment_file": np.int32,
    "fragment_rows": np.int32,
    "fragment_first_row": np.int64,
}


class PackedPaths(Sequence[str]):
    """Paths as two arrays, which the processes of a machine share; of a list each would have its own."""

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = [path.encode() for path in paths]
        self._text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(f"path {number} of {len(self)}")
        return self._text[self._ends[number] : self._ends[number + 1]].tobytes().decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


@dataclass(frozen=True, eq=False)
class SourceIndex:
    """Files of one source and their fragments. A fragment is the unit of reading.

    | format | fragment | reader_arrays |
    |---|---|---|
    | parquet | a row group | `row_group` int32 (F,): its number inside the file |
    | webdataset | up to 64 consecutive samples | `first_byte`, `end_byte` int64 (F,): where in the tar |
    | folder | one image file | none |
    """

    source: SourceSpec
    """The source with everything found filled in: absolute URI, format, columns."""
    files: Sequence[str]
    """Paths relative to the source, sorted: a list, or `PackedPaths` in an index from another process."""
    file_bytes: np.ndarray
    """Size of each file, int64 (N,)."""
    fragment_file: np.ndarray
    """Number of the file that holds the fragment, int32 (F,)."""
    fragment_rows: np.ndarray
    """Records in the fragment, int32 (F,)."""
    fragment_first_row: np.ndarray
    """Number, inside its file, of the fragment's first record, int64 (F,)."""
    reader_arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """What the format's reader needs besides; each of length F."""
    skipped: int = 0
    """Samples of WebDataset tars that have no image and are left out."""
    schema_note: str = ""
    """What was found, in words for a person: columns and types, or kinds of members."""
    file_modified_ns: np.ndarray | None = None
    """When each file was last written, nanoseconds since 1970, int64 (N,); None if the store does not say."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "files": PackedPaths(self.files)}

    @property
    def num_fragments(self) -> int:
        """F."""
        return len(self.fragment_rows)

    @cached_property
    def num_records(self) -> int:
        """Records in all fragments together."""
        return int(self.fragment_rows.sum(dtype=np.int64))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over paths, sizes and rows of all files: equal wherever the same data lie.

        It does not cover contents: a file rewritten with the same size and rows has the same fingerprint.
        """
        digest = hashlib.sha256(f"{FORMAT_VERSION} {self.source.format}\n".encode())
        for path, size in zip(self.files, self.file_bytes.tolist(), strict=True):
            digest.update(f"{path}\0{size}\n".encode())
        for array in (self.fragment_file, self.fragment_rows, self.fragment_first_row):
            digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


def make_index(
    source: SourceSpec,
    files: list[tuple[str, int]],
    fragments: list[tuple[int, int, int]],
    reader_arrays: dict[str, np.ndarray] | None = None,
    skipped: int = 0,
    schema_note: str = "",
) -> SourceIndex:
    """An index from plain lists: files as (path, bytes), fragments as (file number, rows, first row)."""
    table = np.asarray(fragments, dtype=np.int64).reshape(-1, 3)
    return SourceIndex(
        source=source,
        files=[path for path, _ in files],
        file_bytes=np.asarray([size for _, size in files], dtype=np.int64),
        fragment_file=table[:, 0].astype(np.int32),
        fragment_rows=table[:, 1].astype(np.int32),
        fragment_first_row=table[:, 2].copy(),
        reader_arrays=reader_arrays or {},
        skipped=skipped,
        schema_note=schema_note,
    )


def save_index(index: SourceIndex) -> bytes:
    """The index as bytes (a NumPy archive with a JSON header; no pickle)."""
    header = {
        "version": FORMAT_VERSION,
        "source": index.source.model_dump(mode="json"),
        "files": list(index.files),
        "skipped": index.skipped,
        "schema_note": index.schema_note,
        "fingerprint": index.fingerprint,
    }
    arrays = {name: getattr(index, name) for name in _ARRAYS}
    if index.file_modified_ns is not None:
        arrays["file_modified_ns"] = index.file_modified_ns
    arrays |= {f"reader.{name}": array for name, array in index.reader_arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
    return buffer.getvalue()


def load_index(data: bytes) -> SourceIndex:
    """The index that `save_index` wrote. DataError when the bytes are something else or damaged."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop("header").tobytes())
        if header["version"] != FORMAT_VERSION:
            raise ValueError(f"version {header['version']} of the format")
        index = SourceIndex(
            source=SourceSpec.model_validate(header["source"]),
            files=header["files"],
            **{name: arrays.pop(name) for name in _ARRAYS},
            file_modified_ns=arrays.pop("file_modified_ns", None),
            reader_arrays={name.removeprefix("reader."): array for name, array in arrays.items()},
            skipped=header["skipped"],
            schema_note=header["schema_note"],
        )
        if index.fingerprint != header["fingerprint"]:
            raise ValueError("its fingerprint does not match its contents")
    except Exception as error:
        raise DataError(
            where="source index",
            got=f"{len(data)} bytes that are no index of version {FORMAT_VERSION} ({error})",
            allowed="the bytes that save_index wrote",
            next_step="delete the cached index; it is built again from the source",
        ) from error
    return index
