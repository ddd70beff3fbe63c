"""Parquet: which columns are taken, which types become what, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from syn2co_ray.data.index import build_index, read_rows
from syn2co_ray.data.shards import shard_bytes
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import SourceSpec

from .sources import OPTIONS, parquet_bytes, png, put

IMAGES = [png(n) for n in range(3)]


def records(uri: str, table: pa.Table, **fields: Any) -> list[dict]:
    """The records that a source of one file with this table gives."""
    put(uri, "file.parquet", parquet_bytes(table))
    index = build_index(SourceSpec(uri=uri, **fields), OPTIONS)
    return read_rows(index, 0, None, OPTIONS).select(["key", "image", "label"]).to_pylist()


@pytest.mark.parametrize(
    "images",
    [
        pa.array(IMAGES, pa.binary()),
        pa.array(IMAGES, pa.large_binary()),
        pa.array([{"bytes": image, "path": None} for image in IMAGES]),
        pa.array([{"path": "x", "bytes": image} for image in IMAGES]),
    ],
    ids=["binary", "large_binary", "hugging_face", "hugging_face_other_order"],
)
def test_image_types(place: str, images: pa.Array) -> None:
    got = records(place, pa.table({"photo": images}))
    assert [row["image"] for row in got] == IMAGES
    assert [row["key"] for row in got] == [f"file.parquet:{n}" for n in range(3)]
    assert [row["label"] for row in got] == [None] * 3


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (pa.array([3, -1, None], pa.int64()), ["3", "-1", None]),
        (pa.array([3, 0, 255], pa.uint8()), ["3", "0", "255"]),
        (pa.array(["cat", None, "dog"]), ["cat", None, "dog"]),
        (pa.array(["cat", "dog", "cat"], pa.large_string()), ["cat", "dog", "cat"]),
        (pa.array(["cat", "dog", "cat"]).dictionary_encode(), ["cat", "dog", "cat"]),
    ],
    ids=["int64", "uint8", "string", "large_string", "dictionary"],
)
def test_label_types_become_text(tmp_path: Path, labels: pa.Array, texts: list[str | None]) -> None:
    got = records(str(tmp_path), pa.table({"image": IMAGES, "label": labels}))
    assert [row["label"] for row in got] == texts


def test_integer_keys_become_text_and_columns_can_be_named(tmp_path: Path) -> None:
    table = pa.table(
        {"image": [b"a"] * 3, "good": IMAGES, "label": [0, 0, 0], "species": ["x", "y", "z"], "id": [7, 8, 9]}
    )
    fields = {"image_column": "good", "label_column": "species", "key_column": "id"}
    got = records(str(tmp_path), table, **fields)
    assert got == [
        {"key": key, "image": image, "label": label}
        for key, image, label in zip("789", IMAGES, "xyz", strict=True)
    ]


def test_image_is_found_by_name_among_several_binary_columns(tmp_path: Path) -> None:
    got = records(str(tmp_path), pa.table({"mask": [b"m"] * 3, "jpg": IMAGES, "cls": [1, 2, 3]}))
    assert [(row["image"], row["label"]) for row in got] == list(zip(IMAGES, "123", strict=True))


def test_null_images_become_unreadable_rows(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": IMAGES[0], "path": "a"}, {"bytes": None, "path": "b"}, None], kind)
    assert [row["image"] for row in records(f"{tmp_path}/a", pa.table({"image": images}))] == [
        IMAGES[0],
        b"",
        b"",
    ]
    plain = pa.array([IMAGES[0], None, b""], pa.binary())
    assert [row["image"] for row in records(f"{tmp_path}/b", pa.table({"image": plain}))] == [
        IMAGES[0],
        b"",
        b"",
    ]


def test_keys_without_a_column_count_through_row_groups(tmp_path: Path) -> None:
    put(str(tmp_path), "sub/a.parquet", parquet_bytes(pa.table({"image": [png(n) for n in range(25)]})))
    index = build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    assert index.fragment_rows.tolist() == [10, 10, 5]
    assert read_rows(index, 2, None, OPTIONS)["key"].to_pylist() == [
        f"sub/a.parquet:{n}" for n in range(20, 25)
    ]


def test_label_column_that_is_no_class_is_noted_and_left_out(tmp_path: Path) -> None:
    put(str(tmp_path), "a.parquet", parquet_bytes(pa.table({"image": IMAGES, "label": [[1, 2], [3], []]})))
    index = build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    assert read_rows(index, 0, None, OPTIONS)["label"].null_count == 3
    assert "no label column" in index.schema_note
    assert "column 'label' (list<element: int64>) is neither" in index.schema_note


@pytest.mark.parametrize(
    ("columns", "fields", "words"),
    [
        ({"text": ["a"], "n": [1]}, {}, r"no image column among text \(string\), n \(int64\)"),
        ({"a": [b"1"], "b": [b"2"]}, {}, "several columns could be the image: a, b"),
        ({"image": [b"1"]}, {"image_column": "photo"}, "no column 'photo' among image"),
        ({"image": [b"1"], "n": [1]}, {"image_column": "n"}, "column 'n' is of type int64"),
        ({"image": [b"1"], "x": [0.5]}, {"label_column": "x"}, "column 'x' is of type double"),
        ({"image": [b"1"], "x": [0.5]}, {"key_column": "id"}, "no column 'id' among image, x"),
    ],
)
def test_unfit_columns_are_refused(tmp_path: Path, columns: dict, fields: dict, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        records(str(tmp_path), pa.table(columns), **fields)
    fault = caught.value.fault
    assert fault.where == f"{tmp_path}/file.parquet"
    assert fault.allowed
    assert fault.next_step


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"image": [b"1"], "label": ["cat"]},
            r"label column 'label' \(int64\) in .*a.parquet, .*\(string\) in .*b.p",
        ),
        ({"image": [b"1"]}, r"label column 'label' \(int64\) in .*a.parquet, no label column in .*b.parquet"),
        (
            {"photo": [b"1"], "label": [1]},
            r"image column 'image' \(binary\) in .*, image column 'photo' \(binary\)",
        ),
        (
            {"image": [{"bytes": b"1"}], "label": [1]},
            r"\(binary\) in .*\(struct<bytes: binary>\) in .*b.parquet",
        ),
        ({"image": [b"1"], "label": [1], "key": ["k"]}, r"no key column in .*a.parquet, key column 'key'"),
    ],
)
def test_mixed_schemas_name_both_files_and_the_difference(place: str, other: dict, words: str) -> None:
    put(place, "a.parquet", parquet_bytes(pa.table({"image": [b"1"], "label": [1]})))
    put(place, "b.parquet", parquet_bytes(pa.table(other)))
    with pytest.raises(DataError, match=words) as caught:
        build_index(SourceSpec(uri=place), OPTIONS)
    assert f"{place}/a.parquet" in caught.value.fault.got
    assert f"{place}/b.parquet" in caught.value.fault.got


def test_widths_and_unrelated_columns_may_differ(tmp_path: Path) -> None:
    put(
        str(tmp_path),
        "a.parquet",
        parquet_bytes(pa.table({"image": [b"1"], "label": pa.array([1], pa.int32())})),
    )
    wide = {"image": pa.array([b"2"], pa.large_binary()), "label": pa.array([2], pa.int64()), "more": [0.5]}
    put(str(tmp_path), "b.parquet", parquet_bytes(pa.table(wide)))
    index = build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    rows = [row for f in range(2) for row in read_rows(index, f, None, OPTIONS).to_pylist()]
    assert [(row["image"], row["label"]) for row in rows] == [(b"1", "1"), (b"2", "2")]


@pytest.mark.parametrize("kept", [0, 100, -20])
def test_truncated_file_is_named(place: str, kept: int) -> None:
    whole = parquet_bytes(pa.table({"image": IMAGES}))
    put(place, "good.parquet", whole)
    put(place, "short.parquet", whole[:kept])
    with pytest.raises(DataError, match=r"short.parquet: no whole Parquet file"):
        build_index(SourceSpec(uri=place), OPTIONS)


def test_damaged_row_group_is_a_data_error(tmp_path: Path) -> None:
    whole = bytearray(parquet_bytes(pa.table({"image": [bytes(5000) + png(n) for n in range(10)]})))
    whole[4:400] = b"\xff" * 396
    put(str(tmp_path), "a.parquet", bytes(whole))
    index = build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    with pytest.raises(DataError, match=r"a.parquet: no whole Parquet file"):
        read_rows(index, 0, None, OPTIONS)


def test_one_wrong_bit_in_a_shard_of_ours_is_found(tmp_path: Path) -> None:
    rows = [(f"{n}", np.random.default_rng(n).bytes(5000), "a") for n in range(8)]
    good = shard_bytes(rows, rows_per_group=8)
    place = good.index(rows[3][1][2000:2010])
    bad = bytearray(good)
    bad[place] ^= 1
    put(str(tmp_path), "a.parquet", bytes(bad))
    index = build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    with pytest.raises(DataError, match=r"a.parquet: no whole Parquet file .*CRC checksum"):
        read_rows(index, 0, None, OPTIONS)


def test_files_without_rows_are_refused_alone_and_fine_among_others(tmp_path: Path) -> None:
    empty = parquet_bytes(pa.table({"image": pa.array([], pa.binary())}))
    put(str(tmp_path), "a.parquet", empty)
    with pytest.raises(DataError, match="1 Parquet files without a single row"):
        build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    put(str(tmp_path), "b.parquet", parquet_bytes(pa.table({"image": IMAGES})))
    assert build_index(SourceSpec(uri=str(tmp_path)), OPTIONS).num_records == 3


def test_null_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 rows without a key in column 'key'"):
        records(str(tmp_path), pa.table({"image": IMAGES, "key": ["a", None, "c"]}))
