"""WebDataset tars: neighbouring members `folder/name.jpg`, `folder/name.cls` make one sample.

A sample's key is its members' path up to the first dot of the file name. The index keeps only byte ranges,
each of up to 64 samples with an image; reading one is a single range request, whose headers are parsed.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import numpy as np
import pyarrow as pa

from ...spec.errors import DataError
from ...spec.source import SourceSpec
from ...storage import FileInfo, Store, with_retries
from ..record import IMAGE_EXTENSIONS, record_table
from ..source_index import SourceIndex, make_index
from .protocol import changed, extension_counts, in_order, no_images

SAMPLES_PER_FRAGMENT: Final = 64
INDEX_BUFFER_BYTES: Final = 8 << 20


@dataclass
class _TarContents:
    """What one pass over a tar's headers found: fragments as (samples, first byte, end byte)."""

    fragments: list[tuple[int, int, int]] = field(default_factory=list)
    skipped: int = 0
    skipped_members: list[str] = field(default_factory=list)

    def add(self, sample: list[tarfile.TarInfo]) -> None:
        if not any(_is_image(member) for member in sample):
            self.skipped += 1
            self.skipped_members += [member.name for member in sample][: 100 - len(self.skipped_members)]
            return
        first, end = sample[0].offset, _end_byte(sample[-1])
        if not self.fragments or self.fragments[-1][0] == SAMPLES_PER_FRAGMENT:
            self.fragments.append((1, first, end))
        else:
            count, start, _ = self.fragments[-1]
            self.fragments[-1] = (count + 1, start, end)


class WebDatasetReader:
    """Image: the first member of an image's ending. Label: .cls (text), else `label` or `cls` of .json."""

    extensions = frozenset({"tar"})

    def build(self, source: SourceSpec, store: Store, files: list[FileInfo], threads: int) -> SourceIndex:
        """Pass once over every tar; a sample without an image is counted in `skipped`."""
        with ThreadPoolExecutor(threads) as pool:
            contents = list(
                in_order(pool, lambda file: _scan(store.child(file.path), file.size_bytes), files)
            )
        fragments, ranges = [], []
        for number, content in enumerate(contents):
            first_row = 0
            for samples, first, end in content.fragments:
                fragments.append((number, samples, first_row))
                ranges.append((first, end))
                first_row += samples
        skipped = sum(content.skipped for content in contents)
        if not fragments:
            members = [name for content in contents for name in content.skipped_members]
            got = f"no sample with an image in {len(files)} tars" + (
                f"; members end in {extension_counts(members)}" if members else ""
            )
            endings = ", ".join(f".{ending}" for ending in sorted(IMAGE_EXTENSIONS))
            raise no_images(source, got, f"members that end in one of {endings} after the first dot")
        bounds = np.asarray(ranges, dtype=np.int64)
        return make_index(
            source,
            [(file.path, file.size_bytes) for file in files],
            fragments,
            {"first_byte": bounds[:, 0].copy(), "end_byte": bounds[:, 1].copy()},
            skipped=skipped,
            schema_note=f"{len(files)} tars"
            + (f", {skipped} samples without an image left out" if skipped else ""),
        )

    def read(
        self,
        index: SourceIndex,
        store: Store,
        fragment: int,
        rows: np.ndarray | None,
        columns: tuple[str, ...] | None,
    ) -> pa.Table:
        """One range request, whichever rows are asked for."""
        file = store.child(index.files[index.fragment_file[fragment]])
        data = _read_range(file, index, fragment)
        try:
            samples = _samples_with_image(data)
        except tarfile.TarError as error:
            raise changed(index, fragment, f"no samples where they were ({error})") from error
        if len(samples) != index.fragment_rows[fragment]:
            raise changed(index, fragment, f"{len(samples)} samples")
        wanted = samples if rows is None else [samples[row] for row in rows]
        return record_table(
            [_key(sample[0].name) for sample in wanted],
            [_bytes(data, next(filter(_is_image, sample))) for sample in wanted],
            [_label(data, sample, file) for sample in wanted],
            index.source.origin,
            index.source.uri,
            columns,
        )


def _scan(file: Store, size_bytes: int) -> _TarContents:
    return with_retries(lambda: _scan_once(file, size_bytes), what=f"index {file.uri}")


def _scan_once(file: Store, size_bytes: int) -> _TarContents:
    contents = _TarContents()
    with file.filesystem.open_input_file(file.path) as raw:
        # Headers of small members lie close together: large reads pass over many of them per request.
        stream = io.BufferedReader(raw, INDEX_BUFFER_BYTES)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for _, sample in groupby(_members(tar, size_bytes), key=_sample_key):
                    contents.add(list(sample))
                end = tar.offset
        except tarfile.TarError as error:
            raise _truncated(file, size_bytes, f"the tar breaks off ({error})") from error
        # tarfile takes a broken header for the end of the archive; the true end is a block of zeros.
        stream.seek(end)
        if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise _truncated(file, size_bytes, f"no whole header and no end mark at byte {end}")
    return contents


def _truncated(file: Store, size_bytes: int, got: str) -> DataError:
    return DataError(
        where=file.uri,
        got=f"{got}; the file has {size_bytes} bytes",
        allowed="whole, uncompressed tars",
        next_step="copy or write the file again, or move it out of the source",
    )


def _members(tar: tarfile.TarFile, size_bytes: int) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        if _end_byte(member) > size_bytes:
            raise tarfile.ReadError(f"{member.name} should end at byte {_end_byte(member)}")
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers all members otherwise
        if member.isreg():
            yield member


def _read_range(file: Store, index: SourceIndex, fragment: int) -> bytes:
    first, end = (int(index.reader_arrays[name][fragment]) for name in ("first_byte", "end_byte"))
    size_bytes = int(index.file_bytes[index.fragment_file[fragment]])

    def read() -> bytes:
        with file.filesystem.open_input_file(file.path) as stream:
            if stream.size() != size_bytes:
                raise changed(index, fragment, f"{stream.size()} bytes instead of {size_bytes}")
            return stream.read_at(end - first, first)

    return with_retries(read, what=f"read {file.uri}")


def _samples_with_image(data: bytes) -> list[list[tarfile.TarInfo]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        samples = [list(sample) for _, sample in groupby(_members(tar, len(data)), key=_sample_key)]
    return [sample for sample in samples if any(_is_image(member) for member in sample)]


def _end_byte(member: tarfile.TarInfo) -> int:
    # Data are filled up to whole blocks. Links and folders have none, whatever their size says.
    blocks = -(-member.size // tarfile.BLOCKSIZE) if member.isreg() else 0
    return member.offset_data + blocks * tarfile.BLOCKSIZE


def _sample_key(member: tarfile.TarInfo) -> str:
    return _key(member.name)


def _key(name: str) -> str:
    folder, slash, file = name.removeprefix("./").rpartition("/")
    return folder + slash + file.partition(".")[0]


def _ending(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2].partition(".")[2].lower()


def _is_image(member: tarfile.TarInfo) -> bool:
    return _ending(member) in IMAGE_EXTENSIONS


def _bytes(data: bytes, member: tarfile.TarInfo) -> bytes:
    return data[member.offset_data : member.offset_data + member.size]


def _label(data: bytes, sample: list[tarfile.TarInfo], file: Store) -> str | None:
    members = {_ending(member): member for member in sample}
    try:
        if "cls" in members:
            return _bytes(data, members["cls"]).decode().strip() or None
        if "json" in members:
            return _json_label(json.loads(_bytes(data, members["json"])))
    except ValueError as error:
        raise DataError(
            where=f"{file.uri}#{_key(sample[0].name)}",
            got=f"the label cannot be read ({error})",
            allowed="text in .cls, or a JSON object in .json",
            next_step="write the sample again",
        ) from error
    return None


def _json_label(value: object) -> str | None:
    found = (
        next((value[name] for name in ("label", "cls") if name in value), None)
        if isinstance(value, dict)
        else None
    )
    return str(found) if isinstance(found, int | str) and not isinstance(found, bool) else None
