"""Two generated data sets beside each other, slot by slot."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..spec.errors import DataError
from ..spec.source import ObjectStoreSpec
from ..storage import Store, exists, list_files, open_store, read_bytes, read_from
from .data_set import DATASET_FILE

PROVENANCE = ("label", "seed", "attempt", "prompt", "class_number", "source_key", "guidance", "strength")
KEYS_SHOWN = 5


@dataclass
class Difference:
    """Counts over slots; `examples` are the first keys whose image differs."""

    settings: list[str] = field(default_factory=list)
    """Dotted keys of the job in which the two differ."""
    equal: int = 0
    only_first: int = 0
    only_second: int = 0
    images: int = 0
    provenance: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def any(self) -> bool:
        return bool(self.only_first or self.only_second or self.images or self.provenance)

    def lines(self) -> Iterator[str]:
        yield f"{self.equal:,} images equal, {self.images:,} different"
        if self.only_first or self.only_second:
            yield f"{self.only_first:,} only in the first, {self.only_second:,} only in the second"
        if self.settings:
            yield f"settings that differ: {', '.join(self.settings)}"
        for name, count in sorted(self.provenance.items()):
            yield f"{name} differs in {count:,} images"
        if self.examples:
            yield f"for example: {', '.join(self.examples)}"


def compare(first_uri: str, second_uri: str, options: ObjectStoreSpec) -> Difference:
    """Compare two data sets by slot: images by their bytes, and where they come from.

    Raises:
        DataError: a prefix that holds no generated data set.
    """
    stores = [open_store(uri, options) for uri in (first_uri, second_uri)]
    jobs = [_described(store)["job"] for store in stores]
    found = Difference(settings=sorted(_differing(jobs[0], jobs[1])))
    first, second = (dict(_images(store)) for store in stores)
    found.only_first = len(first.keys() - second.keys())
    found.only_second = len(second.keys() - first.keys())
    for slot in sorted(first.keys() & second.keys()):
        one, other = first[slot], second[slot]
        found.provenance.update(name for name in PROVENANCE if one[name] != other[name])
        if one["sha256"] == other["sha256"]:
            found.equal += 1
        else:
            found.images += 1
            if len(found.examples) < KEYS_SHOWN:
                found.examples.append(one["key"])
    return found


def _described(store: Store) -> dict[str, Any]:
    if not exists(store, DATASET_FILE):
        raise DataError(store.uri, f"holds no {DATASET_FILE}", "a data set made by kind: generate", "")
    described: dict[str, Any] = json.loads(read_bytes(store, DATASET_FILE))
    return described


def _images(store: Store) -> Iterator[tuple[int, dict[str, Any]]]:
    for info in list_files(store, recursive=False, missing_ok=True):
        if not info.path.endswith(".parquet"):
            continue
        yield from read_from(store, info.path, _rows)


def _rows(file: pa.NativeFile) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for batch in pq.ParquetFile(file).iter_batches(columns=["key", "image", *PROVENANCE]):
        for row in batch.to_pylist():
            row["sha256"] = hashlib.sha256(row.pop("image")).hexdigest()
            rows.append((int(row["key"].rpartition("-")[2]), row))
    return rows


def _differing(first: Any, second: Any, path: str = "") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for name in first.keys() | second.keys():
            yield from _differing(first.get(name), second.get(name), f"{path}.{name}" if path else name)
    elif first != second:
        yield path
