"""A published name holds all its bytes or is absent; reading and listing agree on local and S3 places."""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import (
    FileInfo,
    delete,
    exists,
    filesystem,
    list_files,
    list_level,
    open_store,
    publish,
    publish_bytes,
    publish_file,
    read_bytes,
    with_retries,
)

from ..object_store import ObjectStore
from .stalling_proxy import StallingProxy

OPTIONS = ObjectStoreSpec()
PART_BYTES = 10 * 2**20  # an S3 upload is cut into parts of about this size


def test_published_bytes_are_read_back_and_replaced(place: str) -> None:
    store = open_store(place, OPTIONS)
    for data in (b"first", b"", os.urandom(3 * PART_BYTES)):
        publish_bytes(store, "folder/file.bin", data)
        assert read_bytes(store, "folder/file.bin") == data
    assert list_files(store) == [FileInfo("folder/file.bin", 3 * PART_BYTES)]


@pytest.mark.parametrize("size_bytes", [0, 1000, 2 * PART_BYTES + 1])
def test_published_file_equals_its_source(place: str, tmp_path: Path, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    (tmp_path / "source").write_bytes(data)
    store = open_store(place, OPTIONS)
    publish_file(store, "copy", tmp_path / "source")
    assert read_bytes(store, "copy") == data


def test_missing_source_file_publishes_nothing(place: str, tmp_path: Path) -> None:
    store = open_store(place, OPTIONS)
    with pytest.raises(StorageError, match="no such file to publish"):
        publish_file(store, "copy", tmp_path / "nowhere")
    assert not exists(store, "copy")


def test_list_is_sorted_relative_and_recursive_when_asked(place: str) -> None:
    store = open_store(place, OPTIONS)
    for name in ("b.txt", "a/2.txt", "a/1.txt", "c/d/e.txt"):
        publish_bytes(store, name, b"x" * len(name))
    assert [(file.path, file.size_bytes) for file in list_files(store)] == [
        ("a/1.txt", 7),
        ("a/2.txt", 7),
        ("b.txt", 5),
        ("c/d/e.txt", 9),
    ]
    assert [file.path for file in list_files(store, recursive=False)] == ["b.txt"]
    assert [file.path for file in list_files(store.child("a"))] == ["1.txt", "2.txt"]


def test_exists_and_delete(place: str) -> None:
    store = open_store(place, OPTIONS)
    publish_bytes(store, "a/file", b"x")
    assert exists(store, "a/file")
    assert not exists(store, "a")
    assert not exists(store, "a/fil")
    delete(store, "a/file")
    delete(store, "a/file")
    assert not exists(store, "a/file")


def test_list_of_missing_empty_or_file_place_says_so(place: str) -> None:
    store = open_store(place, OPTIONS)
    publish_bytes(store, "emptied/file", b"x")
    delete(store, "emptied/file")
    publish_bytes(store, "file", b"x")
    with pytest.raises(StorageError, match=r"there is no such (folder|prefix)"):
        list_files(store.child("nowhere"))
    with pytest.raises(StorageError, match=r"the (folder|prefix) is empty"):
        list_files(store.child("emptied"))
    with pytest.raises(StorageError, match="it is a file, not a folder"):
        list_files(store.child("file"))
    assert list_files(store.child("nowhere"), missing_ok=True) == []
    assert list_files(store.child("emptied"), missing_ok=True) == []


def test_reading_a_missing_name_says_so(place: str) -> None:
    with pytest.raises(StorageError, match="there is no such") as caught:
        read_bytes(open_store(place, OPTIONS), "nowhere")
    assert caught.value.fault.where == f"read {place}/nowhere"


@pytest.mark.object_store
def test_missing_bucket_is_named(s3_environment) -> None:
    store = open_store("s3://nobody-made-this/prefix", OPTIONS)
    for action in (
        lambda: list_files(store),
        lambda: list_files(store, missing_ok=True),
        lambda: publish_bytes(store, "a", b"1"),
    ):
        with pytest.raises(StorageError, match="there is no bucket 'nobody-made-this'"):
            action()


def test_memory_store_round_trip() -> None:
    store = open_store("memory://publish-test/a", OPTIONS)
    publish_bytes(store, "b/c", b"data")
    assert read_bytes(store, "b/c") == b"data"
    assert list_files(store) == [FileInfo("b/c", 4)]
    delete(store, "b/c")
    assert not exists(store, "b/c")


@pytest.mark.parametrize("failing_call", ["fsync", "replace"])
def test_local_failure_keeps_old_bytes_and_leaves_no_rest(
    tmp_path: Path, monkeypatch, failing_call: str
) -> None:
    store = open_store(str(tmp_path), OPTIONS)
    publish_bytes(store, "file", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish.os, failing_call, full)
    with pytest.raises(StorageError, match="no space"):
        publish_bytes(store, "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_killed_local_writer_leaves_a_rest_that_no_reader_sees(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from syn2co_ray.storage import open_store, publish, publish_bytes\n"
        "from syn2co_ray.spec.source import ObjectStoreSpec\n"
        "publish.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "publish_bytes(open_store(sys.argv[1], ObjectStoreSpec()), 'file', b'new')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
    assert ended.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    store = open_store(str(tmp_path), OPTIONS)
    assert not exists(store, "file")
    assert list_files(store, missing_ok=True) == []


@pytest.fixture
def cutting(s3_environment):
    """A function: a store behind a proxy that cuts all connections once, after so many uploaded bytes."""
    s3_environment.make_bucket("cut")
    proxies = []

    def store_cut_after(forward_bytes: int):
        proxies.append(StallingProxy(s3_environment.endpoint_url, forward_bytes, then="cut"))
        return open_store("s3://cut", ObjectStoreSpec(endpoint_url=proxies[-1].endpoint_url)), proxies[-1]

    yield store_cut_after
    for proxy in proxies:
        proxy.close()


# In the request that starts the upload, in a first and a last part.
@pytest.mark.object_store
def test_a_full_bucket_is_said_to_be_full_and_nothing_half_written_stays(s3_environment: ObjectStore) -> None:
    bucket = f"full-{uuid.uuid4().hex}"
    store = open_store(s3_environment.make_bucket(bucket), OPTIONS)
    publish_bytes(store, "fits", b"x")
    s3_environment.limit(bucket, bytes_max=2**20)
    with pytest.raises(StorageError, match="a quota is used up"):
        publish_bytes(store, "more", os.urandom(3 * PART_BYTES))
    assert [file.path for file in list_files(store)] == ["fits"]


@pytest.mark.object_store
@pytest.mark.parametrize("forward_bytes", [300, PART_BYTES // 2, 3 * PART_BYTES - 100])
def test_upload_that_fails_in_the_middle_keeps_the_old_object(
    cutting, monkeypatch, forward_bytes: int
) -> None:
    direct = open_store("s3://cut", OPTIONS)
    publish_bytes(direct, "object", b"old")
    monkeypatch.setattr(filesystem, "S3_ATTEMPTS", 1)
    monkeypatch.setattr(publish, "with_retries", functools.partial(with_retries, patience_s=0))
    store, proxy = cutting(forward_bytes)
    with pytest.raises(StorageError, match="write s3://cut/object"):
        publish_bytes(store, "object", bytes(3 * PART_BYTES))
    gc.collect()  # Arrow closes the stream of a failed write when it is collected
    assert proxy.stalled.is_set()
    assert read_bytes(direct, "object") == b"old"


@pytest.mark.object_store
def test_upload_survives_a_lost_connection(cutting) -> None:
    data = os.urandom(3 * PART_BYTES)
    store, proxy = cutting(PART_BYTES // 2)
    publish_bytes(store, "survivor", data)
    assert proxy.stalled.is_set()
    assert read_bytes(open_store("s3://cut", OPTIONS), "survivor") == data


@pytest.mark.object_store
def test_uploader_killed_in_the_middle_publishes_nothing(s3_environment) -> None:
    s3_environment.make_bucket("killed")
    proxy = StallingProxy(s3_environment.endpoint_url, forward_bytes=PART_BYTES * 3 // 2, then="hold")
    code = (
        "import sys; from syn2co_ray.storage import open_store, publish_bytes\n"
        "from syn2co_ray.spec.source import ObjectStoreSpec\n"
        "store = open_store('s3://killed', ObjectStoreSpec(endpoint_url=sys.argv[1]))\n"
        "publish_bytes(store, 'object', bytes(30 * 2**20))\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, proxy.endpoint_url])
    try:
        assert proxy.stalled.wait(timeout=60)
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait(timeout=30)
        proxy.close()
    assert list_files(open_store("s3://killed", OPTIONS), missing_ok=True) == []


def test_a_level_has_its_files_and_folders_and_nothing_below(place: str) -> None:
    store = open_store(place, OPTIONS)
    assert list_level(store.child("nothing")) == ([], [])
    for name in ("b.txt", "a.txt", "folder/c.txt", "folder/deeper/d.txt", "other/e.txt"):
        publish_bytes(store, name, name.encode())
    files, folders = list_level(store)
    assert files == [FileInfo("a.txt", 5), FileInfo("b.txt", 5)]
    assert folders == ["folder", "other"]
    assert list_level(store.child("folder")) == ([FileInfo("c.txt", 12)], ["deeper"])
