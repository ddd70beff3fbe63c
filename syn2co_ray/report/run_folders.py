"""Runs, searches and generated data sets below a place, found by the files that each leaves there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import FileInfo, Store, list_level, open_store
from syn2co_ray.storage.run_layout import PROVENANCE_FILE, RESULTS_FILE, SPEC_FILE

from .run_files import RunFiles, load_run_files

TRIALS_FOLDER, RECORDS_FOLDER = "trials", "records"
DATASET_FILE = "dataset.json"
"""As the rooms `search` and `generate` name them, which this one does not know."""
DEPTH_MAX, FOLDERS_MAX = 5, 2000
READS_AT_ONCE = 16
Kind = Literal["run", "search", "data set"]


@dataclass(frozen=True)
class Place:
    """A folder that a job has filled.

    Attributes:
        kind: run, search or data set.
        store: the folder.
        path: relative to where it was looked for; empty for that place itself.
        files: those right below it, with sizes and times.
    """

    kind: Kind
    store: Store
    path: str
    files: tuple[FileInfo, ...]

    @property
    def name(self) -> str:
        return self.store.uri.rstrip("/").rsplit("/", 1)[-1]

    @property
    def modified_ns(self) -> int:
        """When the newest of its files was written, nanoseconds since 1970; 0 if the store does not say."""
        return max((file.modified_ns or 0 for file in self.files), default=0)


@dataclass(frozen=True)
class Found:
    """What is below a place; `cut` when there were more folders than are looked at."""

    places: tuple[Place, ...]
    cut: bool


def find_places(store: Store, folders_max: int = FOLDERS_MAX) -> Found:
    """Every run, search and data set in a folder and up to DEPTH_MAX folders below it, by path.

    One request a folder; nothing inside a run or a data set is listed, a search's trials are.

    Raises:
        StorageError: the place cannot be reached.
    """
    places: list[Place] = []
    level, looked, cut = [""], 0, False
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        for depth in range(DEPTH_MAX + 1):
            if looked + len(level) > folders_max:
                level, cut = level[: folders_max - looked], True
            looked += len(level)
            below: list[str] = []
            listed = pool.map(lambda path: list_level(store.child(path) if path else store), level)
            for path, (files, folders) in zip(level, listed, strict=True):
                kind = _kind({file.path for file in files}, set(folders))
                if kind is not None:
                    places.append(Place(kind, store.child(path) if path else store, path, tuple(files)))
                inside = [TRIALS_FOLDER] if kind == "search" else [] if kind else folders
                if depth < DEPTH_MAX:
                    below += [f"{path}/{name}".strip("/") for name in inside if name in folders]
            level = below
    return Found(tuple(sorted(places, key=lambda place: place.path)), cut)


def _kind(files: set[str], folders: set[str]) -> Kind | None:
    if DATASET_FILE in files:
        return "data set"
    if {TRIALS_FOLDER, RECORDS_FOLDER} & folders and SPEC_FILE in files:
        return "search"
    return "run" if {SPEC_FILE, PROVENANCE_FILE, RESULTS_FILE} & files else None


@dataclass(frozen=True)
class LoadedRun:
    """A run folder that was read; `fault` says why it could not be."""

    uri: str
    files: RunFiles
    fault: str = ""


def load_runs(uris: Iterable[str], options: ObjectStoreSpec) -> list[LoadedRun]:
    """The runs in these folders, each once, in the order given and by path.

    Args:
        uris: run folders, or folders that hold some, such as a storage or a search's folder; local or in a
            store.
        options: how stores are reached.

    Raises:
        StorageError: a place cannot be reached, or has no run.
    """
    stores: dict[str, Store] = {}
    for uri in uris:
        found = find_places(open_store(uri, options))
        runs = [place for place in found.places if place.kind == "run"]
        if not runs:
            raise StorageError(
                uri, "no run below this folder", "a run folder, or one that holds some", "check the path"
            )
        if found.cut:
            got = f"more than {FOLDERS_MAX} folders"
            raise StorageError(uri, got, "a smaller place", "name the folder right above the runs")
        stores.update((place.store.uri, place.store) for place in runs)
    return read_runs(list(stores.values()))


def read_runs(stores: Sequence[Store]) -> list[LoadedRun]:
    """Run folders as they are; one that cannot be read keeps no other from being shown."""

    def read(store: Store) -> LoadedRun:
        try:
            return LoadedRun(store.uri, load_run_files(store))
        except StorageError as error:
            return LoadedRun(store.uri, RunFiles(), str(error))

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return list(pool.map(read, stores))
