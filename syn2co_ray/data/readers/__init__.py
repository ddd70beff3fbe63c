"""One file a format. To add one: write it, add a line here and its name in `spec/data.py`, mirror a test."""

from __future__ import annotations

from typing import Final

from ...spec.source import SourceFormat
from .folder import FolderReader
from .parquet import ParquetReader
from .protocol import Reader
from .webdataset import WebDatasetReader

READERS: Final[dict[SourceFormat, Reader]] = {
    "parquet": ParquetReader(),
    "webdataset": WebDatasetReader(),
    "folder": FolderReader(),
}

__all__ = ["READERS", "FolderReader", "ParquetReader", "Reader", "WebDatasetReader"]
