"""WebDataset: samples, keys, labels, long names, fragments of 64, damaged tars."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import numpy as np
import pytest

from syn2co_ray.data.index import build_index, read_rows
from syn2co_ray.data.readers.webdataset import SAMPLES_PER_FRAGMENT
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import SourceSpec

from .sources import OPTIONS, png, put, tar_bytes


def records(uri: str, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> list[dict]:
    put(uri, "a.tar", tar_bytes(members, format))
    index = build_index(SourceSpec(uri=uri), OPTIONS)
    return read_rows(index, 0, None, OPTIONS).select(["key", "image", "label"]).to_pylist()


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "png", "webp", "JPG"])
def test_image_members_by_ending(tmp_path: Path, ending: str) -> None:
    assert records(str(tmp_path), [(f"a/b.{ending}", b"bytes")]) == [
        {"key": "a/b", "image": b"bytes", "label": None}
    ]


def test_key_ends_at_the_first_dot_of_the_file_name(tmp_path: Path) -> None:
    members = [("./v1.0/x.jpg", b"1"), ("./v1.0/x.cls", b"4"), ("y.jpg", b"2"), ("y.extra.cls", b"9")]
    assert records(str(tmp_path), members) == [
        {"key": "v1.0/x", "image": b"1", "label": "4"},
        {"key": "y", "image": b"2", "label": None},
    ]


@pytest.mark.parametrize(
    ("member", "label"),
    [
        (("s.cls", b" 12\n"), "12"),
        (("s.cls", b""), None),
        (("s.json", b'{"label": 3}'), "3"),
        (("s.json", b'{"cls": "cat"}'), "cat"),
        (("s.json", b'{"caption": "a cat"}'), None),
        (("s.json", b"[1]"), None),
        (("s.txt", b"a caption"), None),
    ],
)
def test_labels(tmp_path: Path, member: tuple[str, bytes], label: str | None) -> None:
    assert records(str(tmp_path), [("s.png", png(0)), member])[0]["label"] == label
    assert records(str(tmp_path), [member, ("s.png", png(0))])[0]["label"] == label


def test_broken_label_names_file_and_sample(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.tar#s: the label cannot be read"):
        records(str(tmp_path), [("s.png", png(0)), ("s.json", b"{")])


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_longer_than_a_header(tmp_path: Path, format: int) -> None:
    folder = "long-" * 60
    members = [(f"{folder}{n}/sample-é{n}.png", png(n)) for n in range(SAMPLES_PER_FRAGMENT + 3)]
    put(str(tmp_path), "a.tar", tar_bytes(members, format))
    index = build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    got = [row["key"] for f in range(2) for row in read_rows(index, f, None, OPTIONS).to_pylist()]
    assert got == [name.removesuffix(".png") for name, _ in members]


def test_fragments_hold_up_to_64_consecutive_samples(place: str) -> None:
    count = 2 * SAMPLES_PER_FRAGMENT + 7
    members = [(f"{n:04d}.png", png(n)) for n in range(count)]
    put(place, "a.tar", tar_bytes(members))
    put(place, "b.tar", tar_bytes(members[:5]))
    index = build_index(SourceSpec(uri=place), OPTIONS)
    assert index.fragment_rows.tolist() == [64, 64, 7, 5]
    assert index.fragment_file.tolist() == [0, 0, 0, 1]
    assert index.fragment_first_row.tolist() == [0, 64, 128, 0]
    got = read_rows(index, 1, np.array([63, 0]), OPTIONS)
    assert got["key"].to_pylist() == ["0127", "0064"]
    assert got["image"].to_pylist() == [png(127), png(64)]


def test_samples_without_image_are_counted(place: str) -> None:
    members = [("a.cls", b"1"), ("b.png", png(1)), ("c.txt", b"x"), ("c.json", b"{}"), ("d.png", png(2))]
    put(place, "a.tar", tar_bytes(members))
    index = build_index(SourceSpec(uri=place), OPTIONS)
    assert (index.num_records, index.skipped) == (2, 2)
    assert "2 samples without an image left out" in index.schema_note
    assert read_rows(index, 0, None, OPTIONS)["key"].to_pylist() == ["b", "d"]


def test_tar_without_any_image_says_what_it_has(place: str) -> None:
    put(place, "a.tar", tar_bytes([("a.txt", b"x"), ("a.mp4", b"y"), ("b.mp4", b"y")]))
    with pytest.raises(
        DataError, match=r"no sample with an image in 1 tars; members end in 2 \.mp4, 1 \.txt"
    ):
        build_index(SourceSpec(uri=place), OPTIONS)


def end_of_samples(tar: bytes) -> int:
    """Byte at which the end mark (blocks of zeros) begins."""
    return len(tar.rstrip(b"\0")) // 512 * 512 + 512


@pytest.mark.parametrize(
    "where", ["in a header", "in an image", "between members", "in the first header", "empty"]
)
def test_truncated_tar_names_file_and_size(place: str, where: str) -> None:
    tar = tar_bytes([(f"{n}.png", png(n) * 20) for n in range(9)], tarfile.USTAR_FORMAT)
    member = end_of_samples(tar) // 9
    cut = {
        "in a header": 4 * member + 100,
        "in an image": 4 * member + 700,
        "between members": 4 * member,
        "in the first header": 300,
        "empty": 0,
    }[where]
    put(place, "good.tar", tar)
    put(place, "short.tar", tar[:cut])
    with pytest.raises(DataError, match=rf"short.tar: .*the file has {cut} bytes") as caught:
        build_index(SourceSpec(uri=place), OPTIONS)
    assert caught.value.fault.where == f"{place}/short.tar"


def test_broken_header_names_the_byte(tmp_path: Path) -> None:
    tar = bytearray(tar_bytes([(f"{n}.png", png(0)) for n in range(5)], tarfile.USTAR_FORMAT))
    start = end_of_samples(bytes(tar)) // 5 * 2
    tar[start : start + 512] = b"\x55" * 512
    put(str(tmp_path), "a.tar", bytes(tar))
    with pytest.raises(DataError, match=f"no whole header and no end mark at byte {start}"):
        build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)


def test_compressed_tar_is_refused(tmp_path: Path) -> None:
    put(str(tmp_path), "a.tar", gzip.compress(tar_bytes([("a.png", png(0))])))
    with pytest.raises(DataError, match="allowed: whole, uncompressed tars"):
        build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
