"""hf://datasets/owner/name@commit/path: data sets of the Hugging Face hub, read only."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Any

import pyarrow as pa
from pyarrow import fs

from ..spec.errors import StorageError

CREDENTIAL_VARIABLES = ("HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME")
_PINNED = re.compile(r"datasets/[^/@]+/[^/@]+@[0-9a-f]{40}(/.*)?")


def check_hub_path(uri: str, path: str) -> None:
    """StorageError unless the path names a data set at a commit."""
    if _PINNED.fullmatch(path):
        return
    data_set = re.match(r"datasets/[^/@]+/[^/@]+", path)
    raise StorageError(
        where=uri,
        got="no commit after the data set's name: a branch may move while runs use it"
        if data_set
        else "no data set in the URI",
        allowed="hf://datasets/owner/name@<the 40 digits of a commit>/path",
        next_step="take the commit from the data set's history on the hub, or dataset_info(name).sha",
    )


@lru_cache(maxsize=8)
def hub_filesystem(anonymous: bool, credentials: tuple[str | None, ...]) -> fs.FileSystem:
    """This process's client; `credentials` only tells environments apart.

    HF_ENDPOINT names another hub. The token is the hub's own business: HF_TOKEN, or the saved login.
    """
    from huggingface_hub import HfFileSystem

    endpoint = os.environ.get("HF_ENDPOINT") or None
    # Not one of fsspec's shared instances: they keep lists of their own for every thread.
    driver = HfFileSystem(endpoint=endpoint, token=False if anonymous else None, skip_instance_cache=True)
    return fs.PyFileSystem(_HubHandler(driver))


class _HubHandler(fs.FSSpecHandler):
    """Arrow's wrapper asks `isfile` and `isdir` first, and the driver takes every failure for a no."""

    def open_input_file(self, path: str) -> pa.PythonFile:
        # No cache: readers ask for the ranges they need, and the driver's would read 5 MiB ahead of each.
        return pa.PythonFile(self.fs.open(path, "rb", cache_type="none"), mode="r")

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError

        repository, _, rest = selector.base_dir.removeprefix("datasets/").partition("@")
        commit, _, folder = rest.partition("/")
        root = f"datasets/{repository}@{commit}"
        # Page after page, and only what is needed of each entry: the driver would keep all of it.
        tree = HfApi(endpoint=self.fs.endpoint, token=self.fs.token).list_repo_tree(
            repository, folder or None, recursive=selector.recursive, revision=commit, repo_type="dataset"
        )
        try:
            return [_info(f"{root}/{entry.path}", entry) for entry in tree]
        except EntryNotFoundError as error:
            raise FileNotFoundError(selector.base_dir) from error


def _info(path: str, entry: Any) -> fs.FileInfo:
    if hasattr(entry, "size"):
        return fs.FileInfo(path, fs.FileType.File, size=entry.size)
    return fs.FileInfo(path, fs.FileType.Directory)
