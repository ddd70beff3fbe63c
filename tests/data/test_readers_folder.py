"""Image folders: classes from the first level, every file a fragment."""

from __future__ import annotations

from pathlib import Path

import pytest

from syn2co_ray.data.index import build_index, read_rows
from syn2co_ray.spec.errors import DataError, StorageError
from syn2co_ray.spec.source import SourceSpec

from .sources import OPTIONS, png, put


def test_flat_folder_has_no_labels(place: str) -> None:
    for n in range(3):
        put(place, f"{n}.jpeg", png(n))
    index = build_index(SourceSpec(uri=place), OPTIONS)
    assert index.schema_note == "3 image files, no class folders"
    assert read_rows(index, 2, None, OPTIONS).select(["key", "image", "label"]).to_pylist() == [
        {"key": "2.jpeg", "image": png(2), "label": None}
    ]


def test_each_file_is_a_fragment_in_path_order(place: str) -> None:
    for name in ("b/1.png", "a/2.png", "a/x/3.png", "notes.txt"):
        put(place, name, png(1))
    index = build_index(SourceSpec(uri=place), OPTIONS)
    assert index.files == ["a/2.png", "a/x/3.png", "b/1.png"]
    assert index.fragment_rows.tolist() == [1, 1, 1]
    assert [read_rows(index, f, None, OPTIONS)["label"][0].as_py() for f in range(3)] == ["a", "a", "b"]
    assert index.schema_note == "3 image files, 2 class folders; other files left out: 1 .txt"


def test_folder_without_images_is_refused(place: str) -> None:
    put(place, "a.txt", b"x")
    with pytest.raises(DataError, match=r"none of the 1 files can hold images: 1 \.txt; allowed: folder: "):
        build_index(SourceSpec(uri=place, format="folder"), OPTIONS)


def test_missing_local_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"list {tmp_path}/nowhere: there is no such folder"):
        build_index(SourceSpec(uri=f"{tmp_path}/nowhere", format="folder"), OPTIONS)


def test_file_deleted_after_indexing_is_named(tmp_path: Path) -> None:
    put(str(tmp_path), "a.png", png(0))
    index = build_index(SourceSpec(uri=str(tmp_path)), OPTIONS)
    (tmp_path / "a.png").unlink()
    with pytest.raises(StorageError, match=f"read {tmp_path}/a.png: there is no such file"):
        read_rows(index, 0, None, OPTIONS)


def test_real_photos_are_read_as_they_are(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "det_bccd"
    index = build_index(SourceSpec(uri=str(folder)), OPTIONS)
    assert index.num_records == 364
    assert ".json" in index.schema_note
    row = read_rows(index, 7, None, OPTIONS).to_pylist()[0]
    assert row["image"] == (folder / row["key"]).read_bytes()
    assert row["label"] == "JPEGImages"
