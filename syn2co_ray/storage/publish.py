"""Write whole or not at all; read in few requests; list with sizes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from ..spec.errors import StorageError
from . import azure
from .filesystem import Store, credentials
from .retry import Result, translate, with_retries

PARTIAL_SUFFIX = ".partial"
"""Ends the names of files that are still being written; lists leave them out."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file below a store."""

    path: str
    """Relative to the store, with forward slashes."""
    size_bytes: int
    modified_ns: int | None = field(default=None, compare=False)
    """When it was written, nanoseconds since 1970 (S3: whole seconds); None if the store does not say."""


def publish_bytes(store: Store, name: str, data: bytes) -> None:
    """Write `data` as the file `name` below `store`: it appears with all its bytes, or not at all.

    An older file of that name stays readable until then. Local: a temporary file in the same folder, synced
    to disk, then renamed. Object store: one upload, which the store shows when it is complete.
    """
    _publish(store.child(name), pa.py_buffer(data))


def publish_file(store: Store, name: str, local_path: str | os.PathLike[str]) -> None:
    """Write a copy of a local file as `name` below `store`, whole or not at all; memory stays flat."""
    path = Path(local_path)
    if not path.is_file():
        raise StorageError(
            where=str(path),
            got="there is no such file to publish",
            allowed="a local file",
            next_step="check the path",
        )
    if path.stat().st_size == 0:
        # An empty file cannot be mapped into memory.
        return _publish(store.child(name), pa.py_buffer(b""))
    with pa.memory_map(str(path)) as mapped:
        _publish(store.child(name), mapped.read_buffer())


def read_bytes(store: Store, name: str) -> bytes:
    """All bytes of the file `name` below `store`. StorageError when it is not there."""
    return read_from(store, name, lambda file: file.readall())


def read_from(store: Store, name: str, read: Callable[[pa.NativeFile], Result]) -> Result:
    """What `read` makes of the opened file `name` below `store`.

    It is called again, with the file opened anew, when the store fails meanwhile.
    """
    target = store.child(name)

    def opened() -> Result:
        # open_input_file: one request for the size, one for the bytes; a stream asks for 256 KiB at a time.
        with target.filesystem.open_input_file(target.path) as file:
            return read(file)

    return with_retries(opened, what=f"read {target.uri}")


def list_files(store: Store, recursive: bool = True, missing_ok: bool = False) -> list[FileInfo]:
    """The files below `store`, sorted by path, without folders and files still being written.

    Args:
        store: a folder or prefix.
        recursive: also files in folders below.
        missing_ok: an empty or missing folder or prefix gives []; a missing bucket is always an error.

    Raises:
        StorageError: no such bucket or folder, an empty one, a file instead of a folder, no access.
    """
    # allow_not_found would also hide a missing bucket.
    selector = fs.FileSelector(store.path, recursive=recursive)

    def entries_below() -> list[fs.FileInfo]:
        try:
            return store.filesystem.get_file_info(selector)
        except FileNotFoundError:
            return []

    entries = with_retries(entries_below, what=f"list {store.uri}")
    # fsspec gives memory:// paths a leading slash.
    prefix = store.path.strip("/") + "/"
    files = [
        FileInfo(entry.path.strip("/").removeprefix(prefix), entry.size, entry.mtime_ns)
        for entry in entries
        if entry.type == fs.FileType.File and not entry.path.endswith(PARTIAL_SUFFIX)
    ]
    if not files and store.scheme == "az":
        _check_container(store)
    if not files and not missing_ok:
        raise _nothing_listed(store)
    return sorted(files, key=lambda file: file.path)


def list_level(store: Store) -> tuple[list[FileInfo], list[str]]:
    """Files right below `store`, and names of its folders, both sorted; nothing of what is further below.

    A missing or empty folder or prefix has neither.

    Raises:
        StorageError: no such bucket, no access.
    """
    selector = fs.FileSelector(store.path, recursive=False)

    def entries_below() -> list[fs.FileInfo]:
        try:
            return store.filesystem.get_file_info(selector)
        except (FileNotFoundError, NotADirectoryError):
            return []

    entries = with_retries(entries_below, what=f"list {store.uri}")
    prefix = store.path.strip("/") + "/"
    files, folders = [], []
    for entry in entries:
        name = entry.path.strip("/").removeprefix(prefix)
        if entry.type == fs.FileType.Directory:
            folders.append(name)
        elif entry.type == fs.FileType.File and not name.endswith(PARTIAL_SUFFIX):
            files.append(FileInfo(name, entry.size, entry.mtime_ns))
    return sorted(files, key=lambda file: file.path), sorted(folders)


def exists(store: Store, name: str) -> bool:
    """Whether the file `name` (not a folder) is below `store`."""
    return _type_of(store.child(name)) == fs.FileType.File


def delete(store: Store, name: str) -> None:
    """Delete the file `name` below `store`; nothing happens when it is not there."""
    target = store.child(name)
    _check_writable(target)

    def remove() -> None:
        with suppress(FileNotFoundError):
            target.filesystem.delete_file(target.path)

    with_retries(remove, what=f"delete {target.uri}")


def delete_folder(store: Store) -> None:
    """Delete everything below `store`, and the folder itself; nothing happens when it is not there."""
    _check_writable(store)

    def remove() -> None:
        with suppress(FileNotFoundError):
            store.filesystem.delete_dir(store.path)

    with_retries(remove, what=f"delete {store.uri}")


def _publish(target: Store, data: pa.Buffer) -> None:
    _check_writable(target)
    if target.scheme == "file":
        with_retries(lambda: _replace(Path(target.path), data), what=f"write {target.uri}")
    elif target.scheme == "memory":
        _rename_in_memory(target, data)
    elif target.scheme == "az":
        environment = credentials()
        with_retries(lambda: azure.upload_blob(target.path, data, environment), what=f"write {target.uri}")
    else:
        with_retries(lambda: _upload(target, data), what=f"write {target.uri}")


def _check_writable(target: Store) -> None:
    if target.scheme == "hf":
        raise StorageError(
            where=f"write {target.uri}",
            got="hf:// is read only here: a data set on the hub changes by commits",
            allowed="a local path, s3://, gs:// or az://",
            next_step="write elsewhere, and upload the result to the hub with its own tools",
        )


def _replace(path: Path, data: pa.Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _rename_in_memory(target: Store, data: pa.Buffer) -> None:
    partial = target.path + PARTIAL_SUFFIX
    with target.filesystem.open_output_stream(partial) as stream:
        stream.write(data)
    target.filesystem.move(partial, target.path)


def _upload(target: Store, data: pa.Buffer) -> None:
    # All bytes in one call: Arrow completes the upload whenever its stream is closed, also while an exception
    # leaves a `with`, so a loop of writes could publish a part. After a write that failed it does not.
    stream = target.filesystem.open_output_stream(target.path)
    stream.write(data)
    stream.close()


def _type_of(target: Store) -> fs.FileType:
    info = with_retries(lambda: target.filesystem.get_file_info(target.path), what=f"look up {target.uri}")
    return info.type


def _check_container(store: Store) -> None:
    # Arrow's answer for a missing container is that for a missing prefix.
    name = store.path.partition("/")[0]
    with suppress(OSError, pa.ArrowException):  # a SAS token may not ask about containers
        if store.filesystem.get_file_info(name).type == fs.FileType.NotFound:
            raise translate(OSError(f"NO_SUCH_BUCKET in bucket '{name}'"), f"list {store.uri}")


def _nothing_listed(store: Store) -> StorageError:
    kind = _type_of(store)
    folder = "folder" if store.scheme == "file" else "prefix"
    if kind == fs.FileType.File:
        got, next_step = "it is a file, not a folder", "give the folder or prefix that holds it"
    elif kind == fs.FileType.Directory:
        got, next_step = f"the {folder} is empty", "put files there or check the path"
    else:
        got = f"there is no such {folder}" + (", or it is empty" if folder == "prefix" else "")
        next_step = "check the path; list the folder above it"
    return StorageError(
        where=f"list {store.uri}", got=got, allowed=f"a {folder} that holds files", next_step=next_step
    )
