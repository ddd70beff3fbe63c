"""Embeddings from Parquet: every row with its key, in order; what does not fit is named."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syn2co_ray.evaluate.embedding_rows import check_embeddings, read_embedding_rows
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store

COUNTED = pa.proxy_memory_pool(pa.default_memory_pool())
"""Arrow's memory with a peak of its own; outlives what was allocated in it."""


def write(file: Path, keys: list[str], rows: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    pq.write_table(pa.table({"key": keys, "embedding": lists}), file, row_group_size=2)


def store(folder: Path):
    return open_store(str(folder), ObjectStoreSpec())


def rows(count: int, first: int = 0, width: int = 4, dtype=np.float16) -> np.ndarray:
    return (np.arange(count * width).reshape(count, width) + first).astype(dtype)


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_all_rows_come_in_the_order_of_the_files_names(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", ["c"], rows(1, 100, dtype=np.float32))
    write(tmp_path / "a.parquet", ["x", "a", "b"], rows(3))
    check_embeddings(store(tmp_path), 4, "any")
    found = read_embedding_rows(store(tmp_path))
    assert found.keys.to_pylist() == ["x", "a", "b", "c"]
    assert found.embeddings.dtype == np.float32
    np.testing.assert_allclose(found.embeddings, unit(np.concatenate([rows(3), rows(1, 100)])), rtol=1e-6)


def test_of_a_job_the_files_of_its_manifest_count(tmp_path: Path) -> None:
    write(tmp_path / "embeddings/1.parquet", ["a"], rows(1))
    write(tmp_path / "embeddings/0-left-over.parquet", ["z"], rows(1))
    (tmp_path / "provenance.json").write_text("{}")
    with pytest.raises(DataError, match="the job has not finished"):
        read_embedding_rows(store(tmp_path))
    manifest = json.dumps({"weights": "1234", "shards": [{"file": "1.parquet"}]})
    (tmp_path / "embeddings/manifest.json").write_text(manifest)
    for folder in (tmp_path, tmp_path / "embeddings"):
        assert read_embedding_rows(store(folder)).keys.to_pylist() == ["a"]
        check_embeddings(store(folder), 4, "1234")
        with pytest.raises(DataError, match=r"other weights \(digest 1234\)"):
            check_embeddings(store(folder), 4, "5678")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("")
    with pytest.raises(DataError, match="no embedding"):
        read_embedding_rows(store(tmp_path))
    write(tmp_path / "a.parquet", ["a"], rows(1))
    with pytest.raises(DataError, match="embeddings of 4 numbers; allowed: of 8 numbers"):
        check_embeddings(store(tmp_path), 8, "any")
    write(tmp_path / "b.parquet", ["b"], rows(1, width=3))
    with pytest.raises(DataError, match="embeddings of 3 and 4 numbers"):
        read_embedding_rows(store(tmp_path))
    write(tmp_path / "b.parquet", ["b"], np.full((1, 4), np.nan, np.float32))
    with pytest.raises(DataError, match="not finite"):
        read_embedding_rows(store(tmp_path))
    pq.write_table(pa.table({"key": ["a"], "first": ["b"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet: no columns `key` and `embedding`"):
        read_embedding_rows(store(tmp_path))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["a"], rows(1))
    whole = (tmp_path / "a.parquet").read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    # pyarrow has another error for a footer between magic bytes that are intact.
    for broken in (b"PAR1", whole[:-20], whole[: -8 - footer] + b"\xff" * footer + whole[-8:]):
        (tmp_path / "a.parquet").write_bytes(broken)
        for read in (read_embedding_rows, lambda place: check_embeddings(place, 4, "any")):
            with pytest.raises(DataError, match=r"a.parquet: damaged \(.*a whole Parquet file"):
                read(store(tmp_path))
    (tmp_path / "a.parquet").write_bytes(
        b"PAR1" + b"\xff" * (len(whole) - footer - 12) + whole[-8 - footer :]
    )
    with pytest.raises(DataError, match=r"a.parquet: damaged"):
        read_embedding_rows(store(tmp_path))


def test_rows_are_in_memory_once(tmp_path: Path) -> None:
    count, width = 100_000, 64
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(count * width, np.float32)), width)
    for name in ("a", "b"):
        pq.write_table(pa.table({"key": ["x"] * count, "embedding": lists}), tmp_path / f"{name}.parquet")
    before = pa.default_memory_pool()
    pa.set_memory_pool(COUNTED)
    tracemalloc.start()
    try:
        found = read_embedding_rows(store(tmp_path))
        peak = tracemalloc.get_traced_memory()[1] + (COUNTED.max_memory() or 0)
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert found.embeddings.shape == (2 * count, width)
    assert peak < 1.5 * found.embeddings.nbytes
