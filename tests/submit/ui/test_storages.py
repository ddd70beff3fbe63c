"""The way into the storages: what was listed, as long as it is listed, and not too much of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.submit.ui import storages as room
from syn2co_ray.submit.ui.cache import Cache
from syn2co_ray.submit.ui.storages import LISTED_FOR_S, Storages, bounded_bytes

from ...report.conftest import RunFolder
from .conftest import store_of


def test_a_listing_is_kept_for_a_while_and_then_made_again(tmp_path: Path) -> None:
    now = [0.0]
    RunFolder(tmp_path / "one").write_finished()
    shown = Storages([store_of(str(tmp_path))], Cache(10, clock=lambda: now[0]))
    assert [seen.place.path for seen in shown.places()] == ["one"]
    RunFolder(tmp_path / "two").write_finished()
    assert shown.place(0, "two", "run") is None
    now[0] = LISTED_FOR_S
    two = shown.place(0, "two", "run")
    assert two is not None
    assert two.store.uri == str(tmp_path / "two")
    assert shown.place(0, "two", "search") is None
    assert shown.place(1, "two", "run") is None


def test_a_storage_may_be_one_run(tmp_path: Path) -> None:
    RunFolder(tmp_path / "one").write_finished()
    shown = Storages([store_of(str(tmp_path / "one"))], Cache(10))
    assert shown.place(0, "", "run") is not None


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FILE_BYTES_MAX", 4)
    (tmp_path / "small").write_bytes(b"1234")
    (tmp_path / "large").write_bytes(b"12345")
    store = store_of(str(tmp_path))
    assert bounded_bytes(store, "", "small") == b"1234"
    assert bounded_bytes(store, "", "absent") is None
    with pytest.raises(StorageError, match="to be shown"):
        bounded_bytes(store, "", "large")
