"""What every format owes: the same records, rows in the order asked, an index that keeps, clear refusals."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from syn2co_ray.data.index import build_index, load_index, read_fragments, read_rows, save_index
from syn2co_ray.data.record import RECORD_SCHEMA
from syn2co_ray.data.source_index import PackedPaths
from syn2co_ray.spec.errors import DataError, StorageError
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec

from .sources import OPTIONS, WRITERS, Expected, parquet_bytes, png, put, write_parquet

FORMATS = list(WRITERS)


@pytest.fixture(params=FORMATS)
def written(request: pytest.FixtureRequest, place: str) -> tuple[SourceSpec, list[Expected]]:
    """A source of each format on each kind of place, and its records."""
    source = SourceSpec(uri=place, origin="generated")
    return source, WRITERS[request.param](place)


def expected_of(table: pa.Table) -> list[Expected]:
    return [Expected(row["key"], row["image"], row["label"]) for row in table.to_pylist()]


def test_all_fragments_together_are_all_records(written) -> None:
    source, records = written
    index = build_index(source, OPTIONS)
    tables = read_fragments(index, [(f, None) for f in range(index.num_fragments)], OPTIONS, threads=4)
    assert [len(table) for table in tables] == index.fragment_rows.tolist()
    table = pa.concat_tables(tables)
    assert table.schema == RECORD_SCHEMA
    assert expected_of(table) == records
    assert index.num_records == len(records)
    assert set(table["origin"].to_pylist()) == {"generated"}
    assert set(table["source"].to_pylist()) == {source.uri}


def test_rows_come_in_the_order_asked(written) -> None:
    source, records = written
    index = build_index(source, OPTIONS)
    generator = np.random.default_rng(3)
    starts = np.cumsum(index.fragment_rows) - index.fragment_rows
    requests, wanted = [], []
    for fragment in generator.permutation(index.num_fragments):
        rows = generator.integers(0, index.fragment_rows[fragment], size=5)
        requests.append((int(fragment), rows))
        wanted.append([records[starts[fragment] + row] for row in rows])
    got = read_fragments(index, requests, OPTIONS, threads=4)
    assert [expected_of(table) for table in got] == wanted
    assert read_rows(index, 0, np.array([], dtype=np.int64), OPTIONS).num_rows == 0


@pytest.mark.parametrize("columns", [("key", "label"), ("image",), ("label", "origin"), ("source",)])
def test_columns_asked_are_the_columns_given(written, columns: tuple[str, ...]) -> None:
    source, _ = written
    index = build_index(source, OPTIONS)
    rows = np.arange(int(index.fragment_rows[0]))[::-1]
    whole = read_rows(index, 0, rows, OPTIONS)
    part = read_rows(index, 0, rows, OPTIONS, columns=columns)
    assert set(part.column_names) == set(columns)
    assert part == whole.select(part.column_names)


def test_index_survives_bytes_and_pickle(written) -> None:
    source, _ = written
    index = build_index(source, OPTIONS)
    for copy in (load_index(save_index(index)), pickle.loads(pickle.dumps(index))):
        for field in dataclasses.fields(index):
            mine, theirs = getattr(index, field.name), getattr(copy, field.name)
            if isinstance(mine, np.ndarray):
                assert mine.dtype == theirs.dtype
                np.testing.assert_array_equal(mine, theirs)
            elif field.name == "reader_arrays":
                assert mine.keys() == theirs.keys()
                for name in mine:
                    np.testing.assert_array_equal(mine[name], theirs[name])
            else:
                assert mine == theirs
        assert copy.fingerprint == index.fingerprint
        last = index.num_fragments - 1
        assert read_rows(copy, last, None, OPTIONS) == read_rows(index, last, None, OPTIONS)


def test_packed_paths_are_the_paths() -> None:
    paths = ["a/1.png", "", "b/ü.png"]
    packed = PackedPaths(paths)
    assert list(packed) == paths
    assert packed == paths
    assert packed != paths[:2]
    with pytest.raises(IndexError, match="path 3 of 3"):
        packed[3]


@pytest.mark.parametrize("damage", [lambda d: d[:-40], lambda d: b"", lambda d: b"no archive"])
def test_damaged_index_is_refused(tmp_path: Path, damage) -> None:
    write_parquet(str(tmp_path))
    data = save_index(build_index(SourceSpec(uri=str(tmp_path)), OPTIONS))
    with pytest.raises(DataError, match="are no index of version"):
        load_index(damage(data))


def test_fingerprint_follows_the_data_not_the_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(str(tmp_path / name))
    a, b = (build_index(SourceSpec(uri=str(tmp_path / name)), OPTIONS) for name in "ab")
    assert a.fingerprint == b.fingerprint
    put(
        str(tmp_path / "b"),
        "part-9.parquet",
        parquet_bytes(pa.table({"key": ["k"], "image": [b"i"], "label": [1]})),
    )
    assert build_index(SourceSpec(uri=str(tmp_path / "b")), OPTIONS).fingerprint != a.fingerprint


def test_index_of_relative_path_is_absolute(tmp_path: Path, monkeypatch) -> None:
    records = write_parquet(str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    index = build_index(SourceSpec(uri="data"), OPTIONS)
    monkeypatch.chdir("/")  # a worker process has its own working directory
    assert expected_of(read_rows(index, 0, None, OPTIONS)) == records[:10]


def test_pattern_takes_only_matching_files(place: str) -> None:
    records = write_parquet(place)
    write_parquet(f"{place}/deeper")
    index = build_index(SourceSpec(uri=f"{place}/part-1*.parquet"), OPTIONS)
    assert index.files == ["part-1.parquet"]
    assert expected_of(read_rows(index, 0, None, OPTIONS)) == records[25:35]
    with pytest.raises(DataError, match="no file matches"):
        build_index(SourceSpec(uri=f"{place}/train-*.parquet"), OPTIONS)


def test_hidden_and_half_written_files_are_left_out(tmp_path: Path) -> None:
    write_parquet(str(tmp_path))
    for name in ("_temporary/part-7.parquet", ".part-8.parquet", "notes.txt"):
        put(str(tmp_path), name, b"not Parquet")
    index = build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    assert index.files == ["part-0.parquet", "part-1.parquet", "part-2.parquet"]
    assert "other files left out: 1 .txt" in index.schema_note


def test_a_list_without_what_the_manifest_names_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(str(tmp_path), f"{name}.parquet", parquet_bytes(pa.table({"image": [png(1)]})))
    shards = [{"file": f"{name}.parquet"} for name in ("a", "b", "c")]
    put(str(tmp_path), "manifest.json", json.dumps({"shards": shards[:2]}).encode())
    assert build_index(SourceSpec(uri=str(tmp_path)), OPTIONS).num_records == 2
    put(str(tmp_path), "manifest.json", json.dumps({"shards": shards}).encode())
    with pytest.raises(
        DataError, match=r"1 of the 3 shards in manifest.json are not listed, such as c.parquet"
    ):
        build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    for other in (b"[]", b'{"shards": 5}', b"not json"):
        put(str(tmp_path), "manifest.json", other)
        assert build_index(SourceSpec(uri=str(tmp_path)), OPTIONS).num_records == 2


def test_file_changed_after_indexing_is_refused(place: str) -> None:
    write_parquet(place)
    index = build_index(SourceSpec(uri=place), OPTIONS)
    put(place, "part-0.parquet", parquet_bytes(pa.table({"key": ["k"], "image": [b"i"], "label": [1]})))
    with pytest.raises(DataError, match="changed after it was indexed"):
        read_rows(index, 0, None, OPTIONS)


@pytest.mark.parametrize(("fragment", "rows"), [(-1, None), (6, None), (0, [10]), (0, [-1])])
def test_fragment_or_row_out_of_range(tmp_path: Path, fragment: int, rows: list[int] | None) -> None:
    write_parquet(str(tmp_path))
    index = build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    with pytest.raises(IndexError):
        read_rows(index, fragment, None if rows is None else np.array(rows), OPTIONS)


def test_missing_and_empty_places_say_so(place: str) -> None:
    with pytest.raises(StorageError, match=r"there is no such (folder|prefix)"):
        build_index(SourceSpec(uri=f"{place}/nowhere"), OPTIONS)
    put(place, "only/readme.txt", b"x")
    with pytest.raises(DataError, match=r"none of the 1 files can hold images: 1 \.txt") as caught:
        build_index(SourceSpec(uri=place), OPTIONS)
    assert ".parquet" in caught.value.fault.allowed
    with pytest.raises(DataError, match=r"allowed: webdataset: \.tar; next"):
        build_index(SourceSpec(uri=place, format="webdataset"), OPTIONS)


@pytest.mark.object_store
def test_missing_bucket_and_wrong_credentials_say_so(s3_environment, monkeypatch) -> None:
    with pytest.raises(StorageError, match="there is no bucket 'not-a-bucket'"):
        build_index(SourceSpec(uri="s3://not-a-bucket/train"), OPTIONS)
    uri = s3_environment.make_bucket("secrets")
    write_parquet(uri)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="credentials were refused"):
        build_index(SourceSpec(uri=uri), OPTIONS)


def test_several_formats_need_a_choice(tmp_path: Path) -> None:
    records = write_parquet(str(tmp_path))
    put(str(tmp_path), "preview.png", png(0))
    with pytest.raises(DataError, match=r"files of several formats \(parquet, folder\)") as caught:
        build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    assert "`format`" in caught.value.fault.next_step
    assert build_index(SourceSpec(uri=str(tmp_path), format="parquet"), OPTIONS).num_records == len(records)


def test_cifar10_is_indexed_and_read_whole(shared_dir: Path) -> None:
    uri = str(shared_dir / "data" / "cifar10_jpeg" / "train-*.parquet")
    index = build_index(SourceSpec(uri=uri), ObjectStoreSpec())
    assert index.num_records == 50_000
    requests = [(fragment, None) for fragment in range(index.num_fragments)]
    tables = read_fragments(index, requests, ObjectStoreSpec(), columns=("key", "label"))
    table = pa.concat_tables(tables)
    assert Counter(table["label"].to_pylist()) == {str(label): 5_000 for label in range(10)}
    assert len(set(table["key"].to_pylist())) == 50_000
    first = read_rows(index, 0, np.array([0]), ObjectStoreSpec())["image"][0].as_py()
    assert first.startswith(b"\xff\xd8\xff")
