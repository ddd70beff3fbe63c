"""Prepared data sets: whole, repeatable, resumed after an interruption, never written over other data."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from syn2co_ray.data import prepare
from syn2co_ray.data.index import build_index, read_fragments
from syn2co_ray.data.place import PROBE_MARK
from syn2co_ray.data.prepare import MARKER, run_prepare
from syn2co_ray.data.shards import key_order, write_shards
from syn2co_ray.data.subset import first_of_each_class
from syn2co_ray.spec.data import DigitsStep, SubsetStep
from syn2co_ray.spec.errors import DataError, StorageError
from syn2co_ray.spec.source import SourceSpec
from syn2co_ray.storage import Store, delete, list_files, open_store, publish_bytes, read_bytes

from .sources import OPTIONS, WRITERS, parquet_bytes, png, put


def digits_step(into: str, eval_share: float = 0.2) -> DigitsStep:
    return DigitsStep(dataset="digits", into=into, eval_share=eval_share)


def subset_step(source: str, into: str, images_per_class: int) -> SubsetStep:
    return SubsetStep(
        dataset="subset", source=SourceSpec(uri=source), into=into, images_per_class=images_per_class
    )


def contents(uri: str) -> dict[str, bytes]:
    store = open_store(uri, OPTIONS)
    return {file.path: read_bytes(store, file.path) for file in list_files(store)}


def rows_of(uri: str) -> list[dict]:
    index = build_index(SourceSpec(uri=uri), OPTIONS)
    tables = read_fragments(index, [(f, None) for f in range(index.num_fragments)], OPTIONS)
    return pa.concat_tables(tables).select(["key", "image", "label"]).to_pylist()


def test_digits_are_all_there_once_with_their_pixels(place: str) -> None:
    run_prepare([digits_step(place)], OPTIONS, log=lambda _: None)
    parts = {part: rows_of(f"{place}/{part}") for part in ("train", "eval")}
    keys = [row["key"] for rows in parts.values() for row in rows]
    assert sorted(keys) == [f"digits/{n:04d}" for n in range(1797)]
    assert 0.15 < len(parts["eval"]) / 1797 < 0.25
    digits = load_digits()
    for row in parts["train"][:50] + parts["eval"][:50]:
        number = int(row["key"].removeprefix("digits/"))
        assert row["label"] == str(digits.target[number])
        image = Image.open(io.BytesIO(row["image"]))
        assert (image.format, image.mode, image.size) == ("PNG", "L", (8, 8))
        np.testing.assert_allclose(np.asarray(image), digits.images[number] * 255 / 16, atol=0.5)
    index = build_index(SourceSpec(uri=f"{place}/train"), OPTIONS)
    assert index.fragment_rows.max() == 64
    assert max(np.bincount(index.fragment_file, weights=index.fragment_rows)) == 256


def test_marker_lists_parameters_counts_and_checksums(place: str) -> None:
    run_prepare([digits_step(place)], OPTIONS, log=lambda _: None)
    files = contents(place)
    marker = json.loads(files.pop(MARKER))
    assert marker["parameters"] == {"dataset": "digits", "eval_share": 0.2}
    assert sum(marker["counts"].values()) == 1797
    assert {name: file["sha256"] for name, file in marker["files"].items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }


def test_finished_step_is_skipped_and_same_bytes_elsewhere(tmp_path: Path, monkeypatch) -> None:
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    lines: list[str] = []
    run_prepare([digits_step(first), digits_step(second)], OPTIONS, log=lambda _: None)
    assert contents(first) == contents(second)
    monkeypatch.setattr(prepare, "publish_bytes", lambda *_: pytest.fail("a finished step was written again"))
    run_prepare([digits_step(first)], OPTIONS, log=lines.append)
    assert lines == [f"prepared before: digits in {first} (389 eval, 1,408 train)"]


@pytest.mark.parametrize("published_before", [1, 2, 5, 9])
def test_interrupted_step_is_written_again(
    place: str, tmp_path: Path, monkeypatch, published_before: int
) -> None:
    whole = str(tmp_path / "whole")
    run_prepare([digits_step(whole)], OPTIONS, log=lambda _: None)
    calls: list[str] = []

    def interrupted(store: Store, name: str, data: bytes) -> None:
        calls.append(name)
        if len(calls) > published_before:
            raise KeyboardInterrupt
        publish_bytes(store, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "publish_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_prepare([digits_step(place)], OPTIONS, log=lambda _: None)
    assert MARKER not in contents(place)
    run_prepare([digits_step(place)], OPTIONS, log=lambda _: None)
    assert contents(place) == contents(whole)


def test_interrupted_step_of_other_parameters_leaves_no_shards_behind(tmp_path: Path, monkeypatch) -> None:
    into, whole = str(tmp_path / "into"), str(tmp_path / "whole")
    run_prepare([digits_step(whole, eval_share=0.9)], OPTIONS, log=lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_delete_leftovers", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_prepare([digits_step(into, eval_share=0.1)], OPTIONS, log=lambda _: None)
    run_prepare([digits_step(into, eval_share=0.9)], OPTIONS, log=lambda _: None)
    assert contents(into) == contents(whole)


def test_lost_shard_is_written_again(tmp_path: Path) -> None:
    into = str(tmp_path)
    lines: list[str] = []
    run_prepare([digits_step(into)], OPTIONS, log=lambda _: None)
    before = contents(into)
    delete(open_store(into, OPTIONS), "train/part-00001.parquet")
    run_prepare([digits_step(into)], OPTIONS, log=lines.append)
    assert contents(into) == before
    assert "missing" in lines[0]


def test_other_parameters_are_refused(place: str) -> None:
    run_prepare([digits_step(place)], OPTIONS, log=lambda _: None)
    before = contents(place)
    with pytest.raises(DataError, match="prepared with other parameters") as caught:
        run_prepare([digits_step(place, eval_share=0.3)], OPTIONS, log=lambda _: None)
    assert "another `into`" in caught.value.fault.next_step
    assert contents(place) == before


def test_place_with_other_files_is_never_touched(place: str) -> None:
    put(place, "train/part-00000.parquet", b"somebody's data")
    with pytest.raises(
        DataError, match=r"1 files that something else wrote, such as train/part-00000.parquet"
    ):
        run_prepare([digits_step(place)], OPTIONS, log=lambda _: None)
    assert contents(place) == {"train/part-00000.parquet": b"somebody's data"}


def test_marks_of_a_killed_probe_are_no_other_files(place: str) -> None:
    mark = f"{PROBE_MARK}0123456789abcdef"
    put(place, mark, b"1")
    run_prepare([digits_step(place)], OPTIONS, log=lambda _: None)
    assert {mark, MARKER} <= contents(place).keys()


def test_places_inside_one_another_are_refused(tmp_path: Path) -> None:
    steps = [digits_step(str(tmp_path / "a" / "b")), digits_step(str(tmp_path / "a"))]
    with pytest.raises(DataError, match=r"data.prepare.1.into: .* lie in one another"):
        run_prepare(steps, OPTIONS, log=lambda _: None)


@pytest.mark.parametrize("eval_share", [1e-9, 1 - 1e-9])
def test_share_that_leaves_one_side_empty_is_refused(tmp_path: Path, eval_share: float) -> None:
    with pytest.raises(DataError, match=r"leaves no image for (train|eval)"):
        run_prepare([digits_step(str(tmp_path), eval_share=eval_share)], OPTIONS, log=lambda _: None)


@pytest.mark.parametrize("kind", list(WRITERS))
def test_subset_is_the_smallest_keys_of_each_class(place: str, kind: str) -> None:
    records = WRITERS[kind](f"{place}/source")
    run_prepare([subset_step(f"{place}/source", f"{place}/into", 3)], OPTIONS, log=lambda _: None)
    wanted: list[dict] = []
    for label in {record.label for record in records}:
        of_class = sorted(
            (record for record in records if record.label == label), key=lambda record: record.key
        )
        wanted += [{"key": r.key, "image": r.image, "label": r.label} for r in of_class[:3]]
    got = rows_of(f"{place}/into")
    assert sorted(got, key=lambda row: row["key"]) == sorted(wanted, key=lambda row: row["key"])


def test_first_of_each_class_equals_a_plain_loop() -> None:
    generator = np.random.default_rng(5)
    keys = [f"{n:05d}" for n in generator.permutation(500)]
    labels = [str(n) for n in generator.integers(0, 7, 500)]
    taken: dict[str, int] = {}
    wanted = set()
    for position in sorted(range(500), key=lambda position: keys[position]):
        taken[labels[position]] = taken.get(labels[position], 0) + 1
        if taken[labels[position]] <= 20:
            wanted.add(position)
    got = first_of_each_class(pa.chunked_array([keys[:200], keys[200:]]), pa.chunked_array([labels]), 20)
    assert len(got) == 140
    assert set(got.tolist()) == wanted


def test_small_class_is_taken_whole_and_reported(tmp_path: Path) -> None:
    table = pa.table({"key": ["a", "b", "c"], "image": [png(n) for n in range(3)], "label": ["x", "x", "y"]})
    put(f"{tmp_path}/source", "a.parquet", parquet_bytes(table))
    lines: list[str] = []
    run_prepare([subset_step(f"{tmp_path}/source", f"{tmp_path}/into", 2)], OPTIONS, log=lines.append)
    assert "class 'y' has only 1 of 2 images" in lines
    assert len(rows_of(f"{tmp_path}/into")) == 3


def test_unlabelled_source_is_refused(tmp_path: Path) -> None:
    table = pa.table({"image": [png(0), png(1)], "label": ["x", None]})
    put(f"{tmp_path}/source", "a.parquet", parquet_bytes(table))
    with pytest.raises(DataError, match="1 of 2 records have no label"):
        run_prepare([subset_step(f"{tmp_path}/source", f"{tmp_path}/into", 2)], OPTIONS, log=lambda _: None)
    with pytest.raises(StorageError, match="there is no such folder"):
        run_prepare([subset_step(f"{tmp_path}/nowhere", f"{tmp_path}/other", 2)], OPTIONS, log=lambda _: None)


def test_shards_hold_every_row_once_in_order() -> None:
    rows = [(f"k{n}", bytes([n]), str(n)) for n in range(25)]
    shards = list(write_shards(rows, rows_per_shard=10, rows_per_group=4))
    assert [(name, count) for name, count, _ in shards] == [
        ("part-00000.parquet", 10),
        ("part-00001.parquet", 10),
        ("part-00002.parquet", 5),
    ]
    tables = [pq.read_table(io.BytesIO(data)) for _, _, data in shards]
    assert [tuple(row.values()) for row in pa.concat_tables(tables).to_pylist()] == rows


def test_key_order_depends_on_keys_alone_and_mixes() -> None:
    keys = [f"class{n // 100}/{n}" for n in range(1000)]
    order = key_order(keys)
    assert sorted(order.tolist()) == list(range(1000))
    shuffled = np.random.default_rng(0).permutation(1000)
    again = key_order([keys[n] for n in shuffled])
    assert [keys[n] for n in order] == [keys[shuffled[n]] for n in again]
    assert len({keys[n].partition("/")[0] for n in order[:60]}) == 10


def test_cifar10_subset(shared_dir: Path, place: str) -> None:
    source = str(shared_dir / "data" / "cifar10_jpeg" / "test-*.parquet")
    run_prepare([subset_step(source, place, 200)], OPTIONS, log=lambda _: None)
    index = build_index(SourceSpec(uri=place), OPTIONS)
    assert (index.num_records, index.fragment_rows.max(), len(index.files)) == (2000, 128, 2)
    originals = {row["key"]: row for row in rows_of(source)}
    names = sorted({key.split("/")[1] for key in originals})
    smallest = {name: sorted(key for key in originals if f"/{name}/" in key)[:200] for name in names}
    got = rows_of(place)
    assert sorted(row["key"] for row in got) == sorted(key for keys in smallest.values() for key in keys)
    assert all(row == originals[row["key"]] for row in got)
    assert len({row["label"] for row in got[:128]}) == 10
