"""Reading, writing and listing through a store that fails, on a real S3 server behind HAProxy."""

from __future__ import annotations

import functools
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import (
    Store,
    filesystem,
    list_files,
    open_store,
    publish,
    publish_bytes,
    read_bytes,
    with_retries,
)

from ..faulty_store import FaultyStore

pytestmark = pytest.mark.object_store


@pytest.fixture
def store(faulty_store: FaultyStore) -> Store:
    """An empty prefix behind the proxy."""
    return open_store(f"{faulty_store.direct.make_bucket('faults')}/{uuid.uuid4().hex}", ObjectStoreSpec())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The S3 client takes a second of silence for a failure, not half a minute, and tries again once."""
    monkeypatch.setattr(filesystem, "REQUEST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(filesystem, "S3_ATTEMPTS", 2)
    filesystem._s3.cache_clear()
    yield
    filesystem._s3.cache_clear()


@pytest.mark.parametrize("fault", ["slow_down_per_mille", "reset_per_mille"])
def test_a_storm_over_a_third_of_the_requests_loses_nothing(
    store: Store, faulty_store: FaultyStore, fault: str
) -> None:
    faulty_store.set(**{fault: 300})
    contents = {f"{number:02d}": os.urandom(1000 * number) for number in range(8)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: publish_bytes(store, *item), contents.items()))
        read = dict(zip(contents, pool.map(lambda name: read_bytes(store, name), contents), strict=True))
    assert read == contents
    assert [file.path for file in list_files(store)] == sorted(contents)


@pytest.mark.usefixtures("impatient")
def test_a_store_that_does_not_answer_some_requests(store: Store, faulty_store: FaultyStore) -> None:
    faulty_store.set(silent_per_mille=200)
    contents = {f"{number:02d}": os.urandom(1000) for number in range(8)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: publish_bytes(store, *item), contents.items()))
        read = dict(zip(contents, pool.map(lambda name: read_bytes(store, name), contents), strict=True))
    assert read == contents


def test_a_body_that_is_cut_is_sent_again(store: Store, faulty_store: FaultyStore) -> None:
    data, done = os.urandom(48 << 20), threading.Event()

    def keep_cutting() -> None:
        for _ in range(4):
            done.wait(0.1)
            faulty_store.cut()

    for action in (lambda: publish_bytes(store, "big", data), lambda: read_bytes(store, "big")):
        cutting = threading.Thread(target=keep_cutting)
        cutting.start()
        action()
        cutting.join()
    assert read_bytes(store, "big") == data


def test_a_read_costs_two_requests_whatever_its_size(store: Store, faulty_store: FaultyStore) -> None:
    data = os.urandom(8 << 20)
    publish_bytes(store, "big", data)
    faulty_store.set(delay_ms=200)
    before = faulty_store.requests()
    assert read_bytes(store, "big") == data
    assert faulty_store.requests() - before == 2


@pytest.mark.usefixtures("impatient")
def test_a_store_that_restarts_is_waited_for(
    store: Store, faulty_store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_bytes(store, "before", b"before")
    faulty_store.stop()
    delays_s: list[float] = []

    def start_after_three(delay_s: float) -> None:
        delays_s.append(delay_s)
        if len(delays_s) == 3:
            faulty_store.start()

    monkeypatch.setattr(publish, "with_retries", functools.partial(with_retries, sleep=start_after_three))
    publish_bytes(store, "after", b"after")
    assert len(delays_s) >= 3
    assert [file.path for file in list_files(store)] == ["after", "before"]


@pytest.mark.usefixtures("impatient")
def test_a_store_that_hangs_is_waited_for(store: Store, faulty_store: FaultyStore) -> None:
    publish_bytes(store, "before", b"before")
    faulty_store.freeze()
    wakes = threading.Timer(5.0, faulty_store.thaw)
    wakes.start()
    assert read_bytes(store, "before") == b"before"
    wakes.join()


@pytest.mark.usefixtures("impatient")
def test_a_list_is_whole_or_an_error(
    store: Store, faulty_store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client("s3", endpoint_url=faulty_store.direct.endpoint_url)
    bucket, _, prefix = store.path.partition("/")
    names = [f"{number:04d}" for number in range(1200)]  # a page holds 1,000
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: client.put_object(Bucket=bucket, Key=f"{prefix}/{name}"), names))
    faulty_store.set(next_page_reset_per_mille=700)
    assert [file.path for file in list_files(store)] == names
    faulty_store.set(next_page_reset_per_mille=1000)
    monkeypatch.setattr(publish, "with_retries", functools.partial(with_retries, patience_s=1))
    with pytest.raises(StorageError, match=f"list {store.uri}: still failing after"):
        list_files(store)


def test_keys_that_expire_are_waited_for_and_read_again(
    faulty_store: FaultyStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def write(access_key: str, secret_key: str) -> None:
        file.write_text(
            f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
        )

    with faulty_store.direct.user("expiring") as user:
        write(user.access_key, user.secret_key)
        store = open_store(f"{user.make_bucket('expiring')}/a", ObjectStoreSpec())
        publish_bytes(store, "x", b"x")
        assert read_bytes(store, "x") == b"x"
        user.new_keys("expiring", "fresh-access-key", "fresh-secret-key")
        waits: list[float] = []

        def refresh(delay_s: float) -> None:
            waits.append(delay_s)
            write("fresh-access-key", "fresh-secret-key")

        monkeypatch.setattr(publish, "with_retries", functools.partial(with_retries, sleep=refresh))
        assert read_bytes(store, "x") == b"x"
        assert len(waits) == 1
