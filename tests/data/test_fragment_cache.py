"""A cached source gives the records of an uncached one, asks the store once, and never serves an old object."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from syn2co_ray.data.index import build_index, load_index, read_fragments, read_rows, save_index
from syn2co_ray.data.record import RECORD_SCHEMA
from syn2co_ray.spec.source import CacheSpec, ObjectStoreSpec, SourceSpec
from syn2co_ray.storage import open_store

from ..hub_server import serving
from ..storage.counting_proxy import CountingProxy
from .sources import OPTIONS, WRITERS, parquet_bytes, png, put

pytestmark = pytest.mark.object_store


def cached(folder: Path, endpoint_url: str | None = None) -> ObjectStoreSpec:
    return ObjectStoreSpec(
        endpoint_url=endpoint_url, cache=CacheSpec(folder=str(folder), bytes_max=100 * 2**20)
    )


@pytest.fixture
def proxy(s3_environment):
    """Counts the requests that reach the S3 server through it."""
    counting = CountingProxy(s3_environment.endpoint_url)
    yield counting
    counting.close()


@pytest.fixture
def bucket(s3_environment, tmp_path: Path) -> str:
    return f"{s3_environment.make_bucket('cached')}/{tmp_path.name}"


@pytest.mark.parametrize("kind", WRITERS)
def test_second_read_asks_nothing_and_gives_the_same(proxy, bucket: str, tmp_path: Path, kind: str) -> None:
    WRITERS[kind](bucket)
    options = cached(tmp_path / "cache", proxy.endpoint_url)
    index = load_index(save_index(build_index(SourceSpec(uri=bucket), options)))
    generator = np.random.default_rng(0)
    requests = [(f, generator.integers(0, index.fragment_rows[f], 5)) for f in range(index.num_fragments)]
    plain = read_fragments(index, requests, OPTIONS)
    assert read_fragments(index, requests, options) == plain
    asked = len(proxy.requests)
    for columns in (RECORD_SCHEMA.names, ["image"], ["label", "image"]):
        again = read_fragments(index, requests, options, columns=tuple(columns))
        ordered = [name for name in RECORD_SCHEMA.names if name in columns]
        assert again == [table.select(ordered) for table in plain]
    whole = read_rows(index, 0, None, options)
    assert len(proxy.requests) == asked
    assert whole == read_rows(index, 0, None, OPTIONS)


def test_labels_alone_read_no_images_into_the_cache(bucket: str, tmp_path: Path) -> None:
    WRITERS["parquet"](bucket)
    options = cached(tmp_path / "cache")
    index = build_index(SourceSpec(uri=bucket), options)
    read_fragments(index, [(0, None), (1, None)], options, columns=("key", "label"))
    read_rows(index, 0, np.array([], dtype=np.int64), options)
    assert not (tmp_path / "cache").exists()


def test_an_object_replaced_by_one_of_the_same_size_is_read_anew(bucket: str, tmp_path: Path) -> None:
    options = cached(tmp_path / "cache")

    def written_and_read(byte: int) -> tuple[int, bytes]:
        table = pa.table({"key": ["a"], "image": [bytes([byte]) * 5000], "label": [0]})
        put(bucket, "part.parquet", parquet_bytes(table))
        index = build_index(SourceSpec(uri=bucket), options)
        return int(index.file_bytes[0]), read_rows(index, 0, None, options)["image"][0].as_py()

    size_bytes, image = written_and_read(1)
    assert image == bytes([1]) * 5000
    time.sleep(1.1)  # S3 knows whole seconds
    assert written_and_read(2) == (size_bytes, bytes([2]) * 5000)


def test_stores_with_other_endpoints_share_nothing(proxy, bucket: str, tmp_path: Path) -> None:
    WRITERS["parquet"](bucket)
    index = build_index(SourceSpec(uri=bucket), OPTIONS)
    read_rows(index, 0, None, cached(tmp_path / "cache"))
    read_rows(index, 0, None, cached(tmp_path / "cache", proxy.endpoint_url))
    assert proxy.requests


def test_local_sources_and_indexes_without_times_are_not_cached(bucket: str, tmp_path: Path) -> None:
    options = cached(tmp_path / "cache")
    for uri in (str(tmp_path / "local"), bucket):
        WRITERS["parquet"](uri)
    read_rows(build_index(SourceSpec(uri=str(tmp_path / "local")), options), 0, None, options)
    old = replace(build_index(SourceSpec(uri=bucket), options), file_modified_ns=None)
    read_rows(old, 0, None, options)
    assert not (tmp_path / "cache").exists()


def test_a_pinned_commit_needs_no_times(tmp_path: Path, monkeypatch) -> None:
    records = WRITERS["folder"](str(tmp_path / "data"))
    requests: list[str] = []
    commit, options = "e" * 40, cached(tmp_path / "cache")
    with serving("a/b", commit, tmp_path / "data", "datasets", requests=requests) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        index = build_index(SourceSpec(uri=f"hf://datasets/a/b@{commit}"), options)
        first = read_rows(index, 0, None, options)
        requests.clear()
        assert read_rows(index, 0, None, options) == first
    assert requests == []
    assert first["image"].to_pylist() == [records[0].image]


def test_a_row_group_is_one_request_whatever_its_size(proxy, bucket: str) -> None:
    images = [png(n) * 20_000 for n in range(10)]  # 20 MB in all
    put(
        bucket,
        "part.parquet",
        parquet_bytes(pa.table({"key": list("abcdefghij"), "image": images, "label": range(10)})),
    )
    options = ObjectStoreSpec(endpoint_url=proxy.endpoint_url)
    index = build_index(SourceSpec(uri=bucket), options)
    read_rows(index, 0, None, options)  # remembers the footer
    proxy.requests.clear()
    assert read_rows(index, 0, None, options)["image"].to_pylist() == images
    assert open_store(bucket, options).child("part.parquet").path in proxy.requests[0]
    assert [request.split()[0] for request in proxy.requests] == ["HEAD", "GET"]
