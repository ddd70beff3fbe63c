"""Bytes from remote stores on a node's own disk: least recently used go first, all processes share it.

There is no lock and no list of contents, so nothing is left behind by a process that dies: a file appears by
a rename, its time of modification is when it was last used, and whoever has written enough looks through the
folder and deletes. What is read is checked against its checksum, so a torn file is as good as none.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import threading
import time
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from ..spec.errors import StorageError
from ..spec.source import CacheSpec
from .publish import PARTIAL_SUFFIX

KEPT_SHARE = 0.75
"""What deleting leaves of `bytes_max`."""
UNSEEN_SHARE = 1 / 128
"""What a process may write, of `bytes_max`, before it looks through the folder again: with up to 32 writing
processes on a node the whole stays below `bytes_max`."""
PARTIAL_AGE_S = 3600.0
"""A file that is still being written after so long belongs to a process that died."""
CHECKSUM_BYTES = 4


@lru_cache(maxsize=8)
def local_cache(spec: CacheSpec) -> LocalCache:
    """This process's way to the cache, one for all its threads."""
    return LocalCache(Path(spec.folder).expanduser(), spec.bytes_max)


class LocalCache:
    """A folder of files named by the hash of their key; each is whole or absent."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        self._lock = threading.Lock()
        self._unseen_bytes = bytes_max  # what other processes left here is looked at first

    def get(self, key: str) -> pa.Buffer | None:
        """What was put under `key`; None when it is not there, or not whole."""
        path = self._path(key)
        try:
            data = pa.py_buffer(path.read_bytes())
            os.utime(path)
        except OSError:
            return None
        size = data.size - CHECKSUM_BYTES
        if size < 0 or data.slice(size).to_pybytes() != _checksum(data.slice(0, size)):
            path.unlink(missing_ok=True)
            return None
        return data.slice(0, size)

    def put(self, key: str, data: pa.Buffer) -> None:
        """Keep `data`, unless it alone would take a large part of the room or the disk is full.

        Raises:
            StorageError: the folder cannot be made or written.
        """
        if data.size + CHECKSUM_BYTES > self._bytes_max * (1 - KEPT_SHARE):
            return
        path = self._path(key)
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(data.size)
            with open(partial, "xb") as file:
                file.write(data)
                file.write(_checksum(data))
            os.replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise _unusable(self._folder, error) from error

    def _make_room(self, more_bytes: int) -> None:
        with self._lock:
            self._unseen_bytes += more_bytes
            if self._unseen_bytes <= self._bytes_max * UNSEEN_SHARE:
                return
            self._unseen_bytes = more_bytes
        self._delete_oldest(self._bytes_max * KEPT_SHARE - more_bytes)

    def _delete_oldest(self, bytes_left: float) -> None:
        files = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                # Another process may delete it between the list and the question.
                with suppress(FileNotFoundError):
                    state = entry.stat()
                    files.append((state.st_mtime, state.st_size, entry.path))
        total, now = sum(size for _, size, _ in files), time.time()
        for used, size, path in sorted(files):
            if path.endswith(PARTIAL_SUFFIX):
                if now - used < PARTIAL_AGE_S:
                    continue
            elif total <= bytes_left:
                continue
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.sha256(key.encode()).hexdigest()


def _checksum(data: pa.Buffer) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")


def _unusable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        where="object_store.cache.folder",
        got=f"{folder} cannot be written on {os.uname().nodename} ({error.strerror or error})",
        allowed="a folder that this user may make and write on every node",
        next_step="name another folder, or leave object_store.cache out",
    )
