"""What `syn2co doctor` finds about a place in a store: what runs do there, its speed, its clock."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator

from ..spec.errors import StorageError
from ..spec.source import ObjectStoreSpec
from ..storage import Store, delete, list_files, open_store, publish_bytes, read_bytes
from .doctor import Finding, seconds, skew_finding

PROBE_BYTES = 32_000_000
"""Enough for throughput to be told from latency."""
PROBE_FOLDER = ".syn2co-doctor-"
PERMISSIONS = {
    "s3": "s3:PutObject, s3:GetObject, s3:ListBucket and s3:DeleteObject (and s3:AbortMultipartUpload)",
    "gs": "roles/storage.objectUser",
    "az": "Storage Blob Data Contributor",
    "file": "write access to the folder",
}


def store_findings(uri: str, probe_bytes: int = PROBE_BYTES) -> Iterator[Finding]:
    """Write, list, read and delete an object of its own below `uri`.

    Raises:
        StorageError: a URI that names no place, or a place that cannot be written.
    """
    place = open_store(uri, ObjectStoreSpec())
    store, name = place.child(f"{PROBE_FOLDER}{uuid.uuid4().hex}"), "probe.bin"
    data = os.urandom(probe_bytes)
    began_at = time.time()
    write_s = seconds(lambda: publish_bytes(store, name, data))
    ended_at = time.time()
    yield _speed(f"write to {place.uri}", probe_bytes, write_s)
    needed = f"give this machine's credentials {PERMISSIONS.get(store.scheme, 'the right to do so')}"
    try:
        listed = list_files(store)
        yield Finding("list", "the object is there")
        changed_at = _changed_at(store, listed[0].path)
        if changed_at is not None:
            yield skew_finding("clock of the store", _ahead_s(changed_at, began_at, ended_at), 3)
    except StorageError as error:
        yield Finding("list", error.fault.got, needed, error.exit_code)
    try:
        read: list[bytes] = []
        read_s = seconds(lambda: read.append(read_bytes(store, name)))
        if read[0] == data:
            yield _speed("read", probe_bytes, read_s)
        else:
            yield Finding("read", "other bytes than were written", "the store is not fit for use", 3)
    except StorageError as error:
        yield Finding("read", error.fault.got, needed, error.exit_code)
    yield _deleted(store, name, needed)


def _deleted(store: Store, name: str, needed: str) -> Finding:
    try:
        delete(store, name)
        if store.scheme == "file":
            os.rmdir(store.path)
    except (StorageError, OSError) as error:
        left = f"{store.uri}/{name} stays: {getattr(error, 'fault', error)}"
        return Finding("delete", left, f"{needed}; old checkpoints could not be removed either", 3)
    return Finding("delete", "the object is gone")


def _speed(what: str, size: int, took_s: float) -> Finding:
    return Finding(what, f"{size / 1e6:.0f} MB in {took_s:.2f} s, {size / 1e6 / took_s:.0f} MB/s")


def _changed_at(store: Store, path: str) -> float | None:
    """When an object was written, by the store's clock; None where it does not say so."""
    try:
        changed = store.filesystem.get_file_info(f"{store.path}/{path}").mtime_ns
    except OSError:  # whoever may not read it may not ask about it: the read that follows says so
        return None
    return None if changed is None else changed / 1e9


def _ahead_s(changed_at: float, began_at: float, ended_at: float) -> float:
    """How far the store's clock is ahead at least, by when it says an object was written."""
    return changed_at - min(max(changed_at, began_at), ended_at)
