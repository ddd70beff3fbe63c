"""The finished output of an embed job, read back.

<folder of the job>/embeddings/
    <number>-<id>.parquet ...   see `shard_files`
    manifest.json               which of them count, in their order; written when all are there
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..spec.errors import DataError
from ..storage import Store, exists, read_bytes
from .shard_files import embeddings_of, read_shard

FOLDER = "embeddings"
MANIFEST_FILE = "manifest.json"
READS_AT_ONCE = 8
KEYS_NAMED_MAX = 5


@dataclass(frozen=True)
class EmbeddingSet:
    """All embeddings of a job, in the order of its manifest."""

    about: pa.Table
    """n rows: key, source, file, row, label."""
    vectors: np.ndarray
    """(n, F) float32, each of length 1 (or 0)."""

    def row(self, number: int) -> dict[str, Any]:
        """What is known of one image."""
        return self.about.slice(number, 1).to_pylist()[0]

    def number_of(self, key: str) -> int:
        """Place of the first image with this key.

        Raises:
            DataError: there is none.
        """
        found = np.flatnonzero(pa.compute.equal(self.about["key"], key).to_numpy())
        if not len(found):
            some = ", ".join(self.about["key"][:3].to_pylist())
            raise DataError("--key", f"{key!r} is no key of this set", f"one of its keys, such as {some}")
        return int(found[0])


def read_manifest(run: Store) -> dict[str, Any]:
    """What `kind: embed` says of its finished output.

    Raises:
        DataError: the folder holds none.
    """
    if not exists(run.child(FOLDER), MANIFEST_FILE):
        raise DataError(
            run.uri,
            f"no {FOLDER}/{MANIFEST_FILE}",
            "the folder of a finished job of kind embed",
            "give the folder that `syn2co run` named, or run the job to its end",
        )
    found: dict[str, Any] = json.loads(read_bytes(run.child(FOLDER), MANIFEST_FILE))
    return found


def read_embeddings(run: Store, manifest: dict[str, Any]) -> EmbeddingSet:
    """All embeddings at once: 4 bytes a number in memory, whatever they are stored as.

    Raises:
        DataError: no image, or a damaged shard.
    """
    about, vectors = [], np.empty((manifest["images"], manifest["features"]), np.float32)
    first = 0
    for table in _tables(run.child(FOLDER), manifest, None):
        if not table.num_rows:
            continue
        vectors[first : first + table.num_rows] = embeddings_of(table)
        first += table.num_rows
        about.append(table.select(["key", "source", "file", "row", "label"]).replace_schema_metadata(None))
    if not about:
        raise DataError(run.uri, "no image could be decoded", "at least one", "check the job's sources")
    # What is compared is the direction; float16 has rounded the lengths.
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return EmbeddingSet(pa.concat_tables(about), vectors)


def repeated_keys(run: Store, manifest: dict[str, Any]) -> tuple[int, list[str]]:
    """How many keys stand more than once, and some of them. Sources may name different images alike."""
    hashes = np.empty(manifest["images"], np.int64)
    first = 0
    for table in _tables(run.child(FOLDER), manifest, ["key"]):
        hashes[first : first + table.num_rows] = [hash(key) for key in table["key"].to_pylist()]
        first += table.num_rows
    hashes.sort()
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not suspects:
        return 0, []
    counts: Counter[str] = Counter()
    for table in _tables(run.child(FOLDER), manifest, ["key"]):
        counts.update(key for key in table["key"].to_pylist() if hash(key) in suspects)
    repeated = sorted(key for key, count in counts.items() if count > 1)
    return len(repeated), repeated[:KEYS_NAMED_MAX]


def _tables(folder: Store, manifest: dict[str, Any], columns: list[str] | None) -> Iterator[pa.Table]:
    """The shards' tables in order, a few read ahead."""
    files = [shard["file"] for shard in manifest["shards"]]
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        for start in range(0, len(files), READS_AT_ONCE):
            some = files[start : start + READS_AT_ONCE]
            yield from pool.map(lambda file: read_shard(folder, file, columns), some)
