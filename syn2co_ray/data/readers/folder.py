"""A folder of image files. Its first level of folders, if there is one, names the classes.

A fragment is one file, so that a folder sorted by class is shuffled as well as any other source. Every image
is a request of its own: over an object store, Parquet and WebDataset read many times faster.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ...spec.source import SourceSpec
from ...storage import FileInfo, Store, read_bytes
from ..record import IMAGE, IMAGE_EXTENSIONS, record_table
from ..source_index import SourceIndex, make_index


class FolderReader:
    """Key: the file's path relative to the source. Label: its first folder, null for a file at the root."""

    extensions = IMAGE_EXTENSIONS

    def build(self, source: SourceSpec, store: Store, files: list[FileInfo], threads: int) -> SourceIndex:
        """One fragment a file; no file is opened."""
        classes = {file.path.partition("/")[0] for file in files if "/" in file.path}
        note = f"{len(files)} image files, " + (
            f"{len(classes)} class folders" if classes else "no class folders"
        )
        return make_index(
            source,
            [(file.path, file.size_bytes) for file in files],
            [(number, 1, 0) for number in range(len(files))],
            schema_note=note,
        )

    def read(
        self,
        index: SourceIndex,
        store: Store,
        fragment: int,
        rows: np.ndarray | None,
        columns: tuple[str, ...] | None,
    ) -> pa.Table:
        """The file's bytes; it is not opened when `image` is not among the columns."""
        path = index.files[index.fragment_file[fragment]]
        count = 1 if rows is None else len(rows)
        wanted = count > 0 and (columns is None or IMAGE in columns)
        label = path.partition("/")[0] if "/" in path else None
        images = [read_bytes(store, path)] * count if wanted else None
        return record_table(
            [path] * count, images, [label] * count, index.source.origin, index.source.uri, columns
        )
