"""Embeddings from Parquet: every row with its key, in order; what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syn2co_ray.evaluate.embedding_rows import check_embeddings, read_embedding_rows
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store


def write(file: Path, keys: list[str], rows: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    pq.write_table(pa.table({"key": keys, "embedding": lists}), file, row_group_size=2)


def store(folder: Path):
    return open_store(str(folder), ObjectStoreSpec())


def rows(count: int, first: int = 0, width: int = 4, dtype=np.float16) -> np.ndarray:
    return (np.arange(count * width).reshape(count, width) + first).astype(dtype)


def test_all_rows_come_in_the_order_of_the_files_names(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", ["c"], rows(1, 100, dtype=np.float32))
    write(tmp_path / "a.parquet", ["x", "a", "b"], rows(3))
    check_embeddings(store(tmp_path), 4, "any")
    found = read_embedding_rows(store(tmp_path))
    assert found.keys.to_pylist() == ["x", "a", "b", "c"]
    assert found.embeddings.dtype == np.float32
    assert found.embeddings.tolist() == [*rows(3).tolist(), *rows(1, 100).tolist()]


def test_of_a_job_the_files_of_its_manifest_count(tmp_path: Path) -> None:
    write(tmp_path / "embeddings/1.parquet", ["a"], rows(1))
    write(tmp_path / "embeddings/0-left-over.parquet", ["z"], rows(1))
    (tmp_path / "provenance.json").write_text(json.dumps({"weights": {"digest": "1234"}}))
    with pytest.raises(DataError, match="the job has not finished"):
        read_embedding_rows(store(tmp_path))
    manifest = json.dumps({"shards": [{"file": "1.parquet"}]})
    (tmp_path / "embeddings/manifest.json").write_text(manifest)
    for folder in (tmp_path, tmp_path / "embeddings"):
        assert read_embedding_rows(store(folder)).keys.to_pylist() == ["a"]
    check_embeddings(store(tmp_path), 4, "1234")
    with pytest.raises(DataError, match=r"other weights \(digest 1234\)"):
        check_embeddings(store(tmp_path), 4, "5678")


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
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="a whole Parquet file"):
        read_embedding_rows(store(tmp_path))
