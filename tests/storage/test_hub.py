"""hf:// against a small hub on loopback: every format, few requests, pinned commits, no writing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from syn2co_ray.data.index import build_index, read_fragments
from syn2co_ray.spec.errors import StorageError
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec
from syn2co_ray.storage import (
    delete,
    delete_folder,
    exists,
    list_files,
    open_store,
    publish_bytes,
    read_bytes,
)

from ..data.sources import WRITERS
from ..hub_server import serving

OPTIONS = ObjectStoreSpec()
COMMIT = "c" * 40
URI = f"hf://datasets/someone/images@{COMMIT}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function: serve the test's folder as the data set; returns the list of requests."""
    requests: list[str] = []
    servers = []

    def serve(token: str | None = None) -> list[str]:
        servers.append(serving("someone/images", COMMIT, tmp_path, "datasets", token, requests))
        monkeypatch.setenv("HF_ENDPOINT", servers[-1].__enter__())
        monkeypatch.setenv("HF_HOME", str(tmp_path.with_name("hub-home")))  # no login of this machine's user
        monkeypatch.delenv("HF_TOKEN", raising=False)
        return requests

    yield serve
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_is_read_from_a_pinned_commit(hub, tmp_path: Path, kind: str) -> None:
    records = WRITERS[kind](str(tmp_path / "data"))
    hub()
    index = build_index(SourceSpec(uri=f"{URI}/data"), OPTIONS)
    requests = [(fragment, None) for fragment in range(index.num_fragments)]
    table = pa.concat_tables(read_fragments(index, requests, OPTIONS, threads=4))
    assert table["key"].to_pylist() == [record.key for record in records]
    assert table["image"].to_pylist() == [record.image for record in records]


def test_a_row_group_is_one_request(hub, tmp_path: Path) -> None:
    WRITERS["parquet"](str(tmp_path))
    requests = hub()
    index = build_index(SourceSpec(uri=f"{URI}/part-1.parquet*"), OPTIONS)
    read_fragments(index, [(0, None)], OPTIONS)  # remembers the footer
    requests.clear()
    read_fragments(index, [(0, None)], OPTIONS)
    assert [request.split()[0:2] for request in requests] == [
        ["GET", f"/datasets/someone/images/resolve/{COMMIT}/part-1.parquet"]
    ]


def test_lists_all_pages_with_sizes(hub, tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{number:02d}").write_bytes(bytes(number))
    (tmp_path / "top").write_bytes(b"x")
    hub()
    files = list_files(open_store(URI, OPTIONS))
    assert [(file.path, file.size_bytes) for file in files] == [
        *((f"a/{number:02d}", number) for number in range(12)),
        ("top", 1),
    ]
    assert [file.path for file in list_files(open_store(URI, OPTIONS), recursive=False)] == ["top"]
    assert len(list_files(open_store(f"{URI}/a", OPTIONS))) == 12
    assert exists(open_store(URI, OPTIONS), "a/01")
    assert not exists(open_store(URI, OPTIONS), "a")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("hf://datasets/someone/images", "a branch may move"),
        ("hf://datasets/someone/images@main/data", "a branch may move"),
        (f"hf://datasets/someone/images@{COMMIT[:-1]}/data", "a branch may move"),
        (f"hf://someone/images@{COMMIT}", "no data set in the URI"),
        ("hf://", "no bucket in the URI"),
    ],
)
def test_a_source_without_a_commit_is_refused(uri: str, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        open_store(uri, OPTIONS)
    assert caught.value.fault.where == uri


@pytest.mark.parametrize(
    "write",
    [
        lambda store: publish_bytes(store, "a", b"1"),
        lambda store: delete(store, "a"),
        lambda store: delete_folder(store),
    ],
)
def test_writing_is_refused(write) -> None:
    with pytest.raises(StorageError, match="read only"):
        write(open_store(URI, OPTIONS))


def test_what_is_not_there_is_named(hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    hub()
    store = open_store(URI, OPTIONS)
    with pytest.raises(StorageError, match="there is no such prefix"):
        list_files(store.child("nowhere"))
    with pytest.raises(StorageError, match="it is a file, not a folder"):
        list_files(store.child("file"))
    other_commit = open_store(URI.replace("c" * 40, "d" * 40), OPTIONS)
    for action in (
        lambda: read_bytes(store, "nowhere"),
        lambda: list_files(other_commit),
        lambda: read_bytes(other_commit, "file"),
    ):
        with pytest.raises(StorageError, match="the hub has no such data set, commit or file"):
            action()


def test_token_comes_from_the_environment_and_anonymous_brings_none(hub, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_bytes(b"private")
    hub(token="hf_secret")
    with pytest.raises(StorageError, match="credentials were refused") as caught:
        list_files(open_store(URI, OPTIONS))
    assert "no HF_TOKEN set" in caught.value.fault.got
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert read_bytes(open_store(URI, OPTIONS), "file") == b"private"
    with pytest.raises(StorageError, match="credentials were refused"):
        list_files(open_store(URI, ObjectStoreSpec(anonymous=True)))
