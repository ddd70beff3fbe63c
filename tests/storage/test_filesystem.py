"""URIs become stores; stores travel between processes without credentials."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import Store, filesystem, list_files, open_store, publish_bytes, read_bytes

OPTIONS = ObjectStoreSpec()


@pytest.mark.parametrize(
    ("uri", "stored_uri", "scheme", "path"),
    [
        ("/data/train", "/data/train", "file", "/data/train"),
        ("/data//train/", "/data/train", "file", "/data/train"),
        ("file:///data/train", "/data/train", "file", "/data/train"),
        ("s3://bucket/a/b/", "s3://bucket/a/b", "s3", "bucket/a/b"),
        ("s3://bucket", "s3://bucket", "s3", "bucket"),
        ("gs://bucket/a", "gs://bucket/a", "gs", "bucket/a"),
        ("az://container/a", "az://container/a", "az", "container/a"),
        ("memory://name/a", "memory://name/a", "memory", "name/a"),
    ],
)
def test_uri_names_scheme_and_path(uri: str, stored_uri: str, scheme: str, path: str) -> None:
    store = open_store(uri, OPTIONS)
    assert (store.uri, store.scheme, store.path) == (stored_uri, scheme, path)


def test_relative_path_starts_at_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("runs/a", OPTIONS).path == str(tmp_path / "runs" / "a")


def test_child_joins_parts() -> None:
    store = open_store("s3://bucket/a", OPTIONS)
    assert store.child("b/c", "d").uri == "s3://bucket/a/b/c/d"
    assert store.child("") == store
    assert open_store("/", OPTIONS).child("etc").path == "/etc"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ftp://host/a", "unknown scheme ftp://"),
        ("s3:///a", "no bucket"),
        ("gs://", "no bucket"),
    ],
)
def test_bad_uri_is_refused(uri: str, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        open_store(uri, OPTIONS)
    assert caught.value.fault.where == uri
    assert caught.value.fault.allowed
    assert caught.value.fault.next_step


def test_endpoint_without_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL: '127\.0\.0\.1:9000' is not a URL"):
        open_store("s3://bucket/a", OPTIONS)


def test_store_pickles_as_uri_and_options_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-in-a-pickle")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "neither-this")
    store = open_store("s3://bucket/a", ObjectStoreSpec(region="eu-west-1"))
    data = pickle.dumps(store)
    assert pickle.loads(data) == store
    assert b"never-in-a-pickle" not in data
    assert b"neither-this" not in data


@pytest.mark.object_store
def test_endpoint_credentials_and_checksum_setting_come_from_environment(s3_environment, monkeypatch) -> None:
    # Without the setting Ceph answers 411 to a write; it is made when the first client is.
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")
    monkeypatch.delenv("AWS_RESPONSE_CHECKSUM_VALIDATION")
    filesystem._s3.cache_clear()
    store = open_store(s3_environment.make_bucket("environment"), OPTIONS)
    publish_bytes(store, "a", b"written")
    assert read_bytes(store, "a") == b"written"
    assert os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"


@pytest.mark.object_store
def test_option_wins_over_environment(s3_environment, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3_environment.make_bucket("options")
    store = open_store("s3://options/x", ObjectStoreSpec(endpoint_url=s3_environment.endpoint_url))
    publish_bytes(store, "a", b"1")
    assert read_bytes(store, "a") == b"1"


@pytest.mark.object_store
def test_pickled_store_reads_in_another_process(s3_environment, tmp_path: Path) -> None:
    store = open_store(s3_environment.make_bucket("pickled"), OPTIONS)
    publish_bytes(store, "a", b"from elsewhere")
    (tmp_path / "store").write_bytes(pickle.dumps(store))
    code = (
        "import pickle, sys; from syn2co_ray.storage import read_bytes\n"
        "sys.stdout.buffer.write(read_bytes(pickle.load(open(sys.argv[1], 'rb')), 'a'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    assert subprocess.run(command, check=True, capture_output=True, timeout=60).stdout == b"from elsewhere"


@pytest.mark.object_store
@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", r"credentials were refused \(SIGNATURE_DOES_NOT_MATCH"),
        ("AWS_ACCESS_KEY_ID", r"credentials were refused \(INVALID_ACCESS_KEY_ID"),
    ],
)
def test_wrong_credentials_are_named(s3_environment, monkeypatch, variable: str, words: str) -> None:
    store = open_store(s3_environment.make_bucket("private"), OPTIONS)
    publish_bytes(store, "a", b"1")
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(StorageError, match=words) as caught:
        list_files(store)
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in caught.value.fault.next_step
    with pytest.raises(StorageError, match="credentials were refused"):
        read_bytes(store, "a")
    with pytest.raises(StorageError, match="credentials were refused"):
        publish_bytes(store, "b", b"2")


@pytest.mark.object_store
def test_anonymous_reads_public_buckets(s3_environment, monkeypatch) -> None:
    uri = s3_environment.make_bucket("public")
    publish_bytes(open_store(uri, OPTIONS), "folder/a", b"seen")
    client = boto3.client("s3")
    client.put_bucket_acl(Bucket="public", ACL="public-read")
    client.put_object_acl(Bucket="public", Key="folder/a", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store = open_store(uri, ObjectStoreSpec(anonymous=True))
    assert [file.path for file in list_files(store)] == ["folder/a"]
    assert read_bytes(store, "folder/a") == b"seen"
    with pytest.raises(StorageError, match="credentials were refused"):
        publish_bytes(store, "b", b"not mine")


@pytest.mark.object_store
def test_anonymous_reader_of_private_bucket_is_refused(s3_environment) -> None:
    s3_environment.make_bucket("private")
    with pytest.raises(StorageError, match=r"credentials were refused \(ACCESS_DENIED\)"):
        list_files(open_store("s3://private", ObjectStoreSpec(anonymous=True)))


def test_unreachable_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "ENDPOINT_PATIENCE_S", 0.2)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        store = open_store("s3://bucket/a", ObjectStoreSpec(endpoint_url=endpoint))
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            list_files(store)
    assert caught.value.fault.where == endpoint
    assert "AWS_ENDPOINT_URL" in caught.value.fault.next_step


def test_store_is_hashable_and_equal_by_value() -> None:
    assert len({open_store("/a", OPTIONS), Store("/a", ObjectStoreSpec()), open_store("/b", OPTIONS)}) == 2
