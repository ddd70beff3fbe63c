"""Ingested data sets: every image once and small enough, order and bytes a pure function, places kept apart."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from syn2co_ray.data.decode import UnreadableImage, decode_rgb
from syn2co_ray.data.index import build_index
from syn2co_ray.data.ingest import IngestPlan, make_plan, make_shard, smaller
from syn2co_ray.data.ingest_files import (
    MANIFEST,
    MARKER,
    QUARANTINE,
    check_apart,
    check_quarantine,
    claim,
    finish,
    finished_manifest,
    known_shards,
    publish_shard,
)
from syn2co_ray.data.shards import key_order
from syn2co_ray.spec.errors import DataError, SpecError
from syn2co_ray.spec.ingest import IngestSpec, ingest_spec
from syn2co_ray.storage import delete, open_store

from .sources import OPTIONS, WRITERS, parquet_bytes, png, put
from .test_decode import encoded, exif_with_orientation, photo
from .test_prepare import contents, rows_of


def spec_of(source: str, into: str, **options: Any) -> IngestSpec:
    return ingest_spec({"source": {"uri": source}, "into": into, **options})


def plan_of(spec: IngestSpec) -> IngestPlan:
    return make_plan(spec, build_index(spec.source, OPTIONS))


def ingest(spec: IngestSpec, only: list[int] | None = None) -> dict[str, Any]:
    """What `run_ingest` does, in this process; without a manifest when only some shards are made."""
    store, plan = open_store(spec.into, OPTIONS), plan_of(spec)
    claim(store, plan)
    shards = known_shards(store, plan)
    for number in range(plan.num_shards) if only is None else only:
        if number not in shards:
            shards[number] = publish_shard(plan, number)
    check_quarantine(store, plan, shards)
    return finish(store, plan, shards) if only is None else {}


def size_of(image: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(image)).size


@pytest.mark.parametrize("kind", list(WRITERS))
def test_every_image_comes_once_with_its_key_label_and_bytes(place: str, kind: str) -> None:
    records = WRITERS[kind](f"{place}/source")
    manifest = ingest(spec_of(f"{place}/source", f"{place}/into", rows_per_shard=7, rows_per_group=3))
    wanted = [{"key": r.key, "image": r.image, "label": r.label} for r in records]
    got = rows_of(f"{place}/into")
    assert sorted(got, key=lambda row: row["key"]) == sorted(wanted, key=lambda row: row["key"])
    labels = [record.label for record in records]
    assert manifest["images_per_label"] == {label: labels.count(label) for label in sorted(set(labels))}
    assert manifest["images"] == len(records)


def test_manifest_lists_the_shards_that_are_there(tmp_path: Path) -> None:
    WRITERS["parquet"](f"{tmp_path}/source")
    into = f"{tmp_path}/into"
    manifest = ingest(spec_of(f"{tmp_path}/source", into, rows_per_shard=10, rows_per_group=4))
    files = contents(into)
    shards = {name: data for name, data in files.items() if name.endswith(".parquet")}
    assert [(s["file"], s["rows"]) for s in manifest["shards"]] == list(
        zip(shards, [10, 10, 10, 10, 2], strict=True)
    )
    for shard in manifest["shards"]:
        data = shards[shard["file"]]
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        groups = pq.ParquetFile(io.BytesIO(data)).metadata
        assert groups.row_group(0).num_rows == min(4, shard["rows"])
    assert json.loads(files[MANIFEST]) == manifest
    assert (
        manifest["image_bytes_before"] == manifest["image_bytes_after"] == sum(len(png(n)) for n in range(42))
    )
    assert json.loads(files[MARKER])["manifest_sha256"] == hashlib.sha256(files[MANIFEST]).hexdigest()
    assert files[QUARANTINE] == b""


def test_shards_take_fragments_in_a_drawn_order_and_sort_by_drawn_keys(tmp_path: Path) -> None:
    WRITERS["parquet"](f"{tmp_path}/source")
    plan = plan_of(spec_of(f"{tmp_path}/source", f"{tmp_path}/into", rows_per_shard=16))
    taken = np.zeros(42, int)
    for number in range(plan.num_shards):
        rows = pq.read_table(io.BytesIO(make_shard(plan, number)[0])).to_pylist()
        assert len(rows) == plan.rows_of(number)
        keys = [row["key"] for row in rows]
        assert key_order(keys).tolist() == list(range(len(keys)))
        taken[[int(key.removeprefix("key-")) for key in keys]] += 1
    assert set(taken) == {1}
    assert plan.order.tolist() != sorted(plan.order.tolist())


def test_a_fragment_larger_than_a_shard_is_cut(tmp_path: Path) -> None:
    put(
        f"{tmp_path}/source", "a.parquet", parquet_bytes(pa.table({"image": [png(n) for n in range(25)]}), 25)
    )
    plan = plan_of(spec_of(f"{tmp_path}/source", f"{tmp_path}/into", rows_per_shard=10))
    assert [rows.tolist() for n in range(3) for _, rows in plan.requests_of(n) if rows is not None] == [
        list(range(10)),
        list(range(10, 20)),
        list(range(20, 25)),
    ]
    ingest(plan.spec)
    assert sorted(row["key"] for row in rows_of(plan.spec.into)) == sorted(
        f"a.parquet:{n}" for n in range(25)
    )


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_whoever_makes_a_shard_its_bytes_are_the_same_also_after_a_stop(
    tmp_path: Path, order: list[int]
) -> None:
    WRITERS["webdataset"](f"{tmp_path}/source")
    whole, into = f"{tmp_path}/whole", f"{tmp_path}/into"
    ingest(spec_of(f"{tmp_path}/source", whole, rows_per_shard=30))
    for number in order:
        ingest(spec_of(f"{tmp_path}/source", into, rows_per_shard=30), only=[number])
    assert MARKER not in contents(into)
    ingest(spec_of(f"{tmp_path}/source", into, rows_per_shard=30))
    assert contents(into) == contents(whole)


def test_a_lost_or_cut_shard_is_made_again_and_no_other(tmp_path: Path) -> None:
    WRITERS["folder"](f"{tmp_path}/source")
    into = f"{tmp_path}/into"
    spec = spec_of(f"{tmp_path}/source", into, rows_per_shard=4)
    manifest, before = ingest(spec), contents(into)
    store, plan = open_store(into, OPTIONS), plan_of(spec)
    assert finished_manifest(store, known_shards(store, plan)) == manifest
    delete(store, plan.file_of(1))
    put(into, plan.file_of(2), before[plan.file_of(2)][:-10])
    known = known_shards(store, plan)
    assert list(known) == [0]
    assert finished_manifest(store, known) is None
    ingest(spec)
    assert contents(into) == before


def test_large_images_become_small_and_small_ones_keep_their_bytes() -> None:
    spec = spec_of("a", "b", shorter_side=32)
    for height, width, size in (
        (96, 128, (43, 32)),
        (128, 96, (32, 43)),
        (33, 500, (485, 32)),
        (200, 200, (32, 32)),
    ):
        for image_type in ("PNG", "JPEG"):
            image = Image.open(io.BytesIO(smaller(encoded(photo(height, width), image_type), spec)))
            assert (image.size, image.mode, image.format) == (size, "RGB", "JPEG")
            assert [part[1:3] for part in image.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0
    for untouched in (
        encoded(photo(32, 500), "JPEG", exif=exif_with_orientation(6)),
        encoded(Image.fromarray(photo(32, 40)).convert("L"), "PNG"),
        encoded(photo(20, 30), "WEBP"),
    ):
        assert smaller(untouched, spec) == untouched
    large = encoded(photo(600, 800), "JPEG")
    assert smaller(large, spec_of("a", "b")) == large


def test_pixels_are_the_mean_of_those_they_stand_for() -> None:
    noisy = np.clip(photo(400, 600) + np.random.default_rng(0).normal(0, 20, (400, 600, 3)), 0, 255).astype(
        np.uint8
    )
    source = encoded(noisy, "JPEG", quality=95)
    got = decode_rgb(smaller(source, spec_of("a", "b", shorter_side=40, quality=100)), pixels_max=10**6)
    mean = cv2.resize(decode_rgb(source, pixels_max=10**6), (60, 40), interpolation=cv2.INTER_AREA)
    assert np.abs(got.astype(int) - mean).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_made_smaller_are_upright(orientation: int) -> None:
    source = encoded(photo(90, 120), "JPEG", quality=95, exif=exif_with_orientation(orientation))
    upright = decode_rgb(source, pixels_max=10**6)
    got = smaller(source, spec_of("a", "b", shorter_side=30, quality=95))
    assert "exif" not in Image.open(io.BytesIO(got)).info
    size = (40, 30) if orientation < 5 else (30, 40)
    assert size_of(got) == size
    wanted = cv2.resize(upright, size, interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(decode_rgb(got, pixels_max=10**6) - wanted).mean() < 4


def test_lower_quality_is_smaller() -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    sizes = [
        len(smaller(encoded(noisy), spec_of("a", "b", shorter_side=64, quality=quality)))
        for quality in (30, 90)
    ]
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("shorter_side", [None, 8, 1000])
def test_what_cannot_be_decoded_is_refused_whatever_its_size(shorter_side: int | None) -> None:
    spec = spec_of("a", "b", shorter_side=shorter_side, image_pixels_max=10_000)
    whole = encoded(photo(60, 80), "JPEG")
    for bad in (b"", b"text", whole[: len(whole) // 2], encoded(photo(101, 100))):
        with pytest.raises(UnreadableImage):
            smaller(bad, spec)


def source_with_bad_images(uri: str) -> None:
    images = [b"no image" if n in (3, 17) else png(n) for n in range(40)]
    table = pa.table({"key": [f"k{n}" for n in range(40)], "image": images, "label": ["x"] * 40})
    put(uri, "a.parquet", parquet_bytes(table))


def test_unreadable_images_are_listed_and_left_out(tmp_path: Path) -> None:
    source, into = f"{tmp_path}/source", f"{tmp_path}/into"
    source_with_bad_images(source)
    manifest = ingest(spec_of(source, into, rows_per_shard=9, quarantine_share_max=0.05))
    listed = [json.loads(line) for line in contents(into)[QUARANTINE].splitlines()]
    assert sorted(entry["key"] for entry in listed) == ["k17", "k3"]
    assert {entry["source"] for entry in listed} == {source}
    assert all(entry["reason"].startswith("not a JPEG") for entry in listed)
    assert (manifest["images"], manifest["unreadable"]) == (38, 2)
    assert {row["key"] for row in rows_of(into)} == {f"k{n}" for n in range(40)} - {"k3", "k17"}


def test_too_many_unreadable_images_stop_it_and_a_larger_share_goes_on(tmp_path: Path) -> None:
    source, into = f"{tmp_path}/source", f"{tmp_path}/into"
    source_with_bad_images(source)
    with pytest.raises(
        DataError, match=r"2 of 40 images cannot be decoded, such as k\d+: not a JPEG"
    ) as caught:
        ingest(spec_of(source, into, quarantine_share_max=0.04))
    assert caught.value.exit_code == 3
    assert len(contents(into)[QUARANTINE].splitlines()) == 2
    assert MARKER not in contents(into)
    assert ingest(spec_of(source, into, quarantine_share_max=0.05))["images"] == 38


def test_a_shard_of_unreadable_images_alone_is_empty(tmp_path: Path) -> None:
    put(f"{tmp_path}/source", "a/0.png", b"x")
    put(f"{tmp_path}/source", "a/1.png", png(1))
    spec = spec_of(f"{tmp_path}/source", f"{tmp_path}/into", rows_per_shard=1, quarantine_share_max=0.5)
    assert sorted(shard["rows"] for shard in ingest(spec)["shards"]) == [0, 1]
    assert [row["key"] for row in rows_of(spec.into)] == ["a/1.png"]


def test_a_place_with_other_files_is_never_touched(place: str) -> None:
    WRITERS["folder"](f"{place}/source")
    put(f"{place}/into", "notes.txt", b"mine")
    with pytest.raises(DataError, match="holds 1 files that something else wrote, such as notes.txt"):
        ingest(spec_of(f"{place}/source", f"{place}/into"))
    assert contents(f"{place}/into") == {"notes.txt": b"mine"}


def test_other_options_sources_and_changed_sources_are_refused(tmp_path: Path) -> None:
    source, into = f"{tmp_path}/source", f"{tmp_path}/into"
    WRITERS["folder"](source)
    ingest(spec_of(source, into, shorter_side=16), only=[])
    with pytest.raises(DataError, match=r"begun with other options \(shorter_side 16, quality 90\)"):
        ingest(spec_of(source, into, quality=80))
    put(f"{tmp_path}/other", "x.png", png(1))
    with pytest.raises(DataError, match=f"begun with another source \\({source}\\)"):
        ingest(spec_of(f"{tmp_path}/other", into, shorter_side=16))
    put(source, "cat/00.PNG", png(0))
    with pytest.raises(DataError, match="changed since it was begun: 12 images in 12 files, now 12 in 12"):
        ingest(spec_of(source, into, shorter_side=16))
    put(source, "cat/new.png", png(99))
    with pytest.raises(DataError, match="changed since it was begun: 12 images in 12 files, now 13 in 13"):
        ingest(spec_of(source, into, shorter_side=16))


def test_the_same_source_elsewhere_goes_on(tmp_path: Path) -> None:
    for name in ("source", "copy"):
        WRITERS["folder"](f"{tmp_path}/{name}")
    into = f"{tmp_path}/into"
    ingest(spec_of(f"{tmp_path}/source", into, rows_per_shard=5), only=[1])
    before = contents(into)
    ingest(spec_of(f"{tmp_path}/copy", into, rows_per_shard=5))
    assert before.items() <= contents(into).items()


def test_a_place_inside_the_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it lies in the source"):
        check_apart(str(tmp_path), open_store(f"{tmp_path}/small", OPTIONS))
    check_apart(f"{tmp_path}/train-*.parquet", open_store(f"{tmp_path}/small", OPTIONS))
    check_apart(f"{tmp_path}/a", open_store(f"{tmp_path}/ab", OPTIONS))


def test_wrong_options_are_named_as_they_are_typed() -> None:
    with pytest.raises(SpecError) as caught:
        spec_of("", "b", shorter_side=4, quality=101, rows_per_group=0)
    assert [fault.where for fault in caught.value.faults] == [
        "SOURCE",
        "--shorter-side",
        "--quality",
        "--rows-per-group",
    ]
    with pytest.raises(SpecError, match="--format-of-source: got 'tar'"):
        ingest_spec({"source": {"uri": "a", "format": "tar"}, "into": "b"})
