"""The storages that are shown, and the only way into them.

A page names a storage by its number and a place by the path at which a listing has found it. What no listing
has found is not there, whatever the path looks like; of a place, only files of known names are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...report.run_folders import Found, Place, find_places
from ...spec.errors import StorageError
from ...storage import Store, list_level, read_bytes
from .cache import Cache

LISTED_FOR_S = 10.0
FILE_BYTES_MAX = 64 * 2**20


@dataclass(frozen=True)
class Listing:
    """What one storage holds; `fault` says why it could not be listed."""

    number: int
    uri: str
    found: Found
    fault: str = ""


@dataclass(frozen=True)
class Seen:
    """A place in the storage of this number."""

    number: int
    place: Place


class Storages:
    """Some storages, listed now and then."""

    def __init__(self, stores: Sequence[Store], cache: Cache) -> None:
        self.stores, self._cache = tuple(stores), cache

    def listings(self) -> list[Listing]:
        """What each of them holds, not older than LISTED_FOR_S."""
        return [self._listing(number) for number in range(len(self.stores))]

    def places(self) -> list[Seen]:
        """All places of all storages, the newest first."""
        seen = [Seen(each.number, place) for each in self.listings() for place in each.found.places]
        return sorted(seen, key=lambda each: each.place.modified_ns, reverse=True)

    def place(self, number: int, path: str, kind: str) -> Place | None:
        """The place of this kind that a listing has found at exactly this path."""
        if not 0 <= number < len(self.stores):
            return None
        places = self._listing(number).found.places
        return next((place for place in places if place.path == path and place.kind == kind), None)

    def below(self, seen: Seen) -> list[Seen]:
        """Places inside another, such as the trials of a search."""
        prefix = f"{seen.place.path}/" if seen.place.path else ""
        places = self._listing(seen.number).found.places
        return [
            Seen(seen.number, each) for each in places if each.path.startswith(prefix) and each != seen.place
        ]

    def _listing(self, number: int) -> Listing:
        store = self.stores[number]

        def make() -> Listing:
            try:
                return Listing(number, store.uri, find_places(store))
            except StorageError as error:
                return Listing(number, store.uri, Found((), False), str(error))

        return self._cache.get(("listing", number), LISTED_FOR_S, make)


def bounded_bytes(store: Store, folder: str, name: str) -> bytes | None:
    """A file of a place, or None where there is none.

    Raises:
        StorageError: it is larger than FILE_BYTES_MAX.
    """
    within = store.child(folder) if folder else store
    info = next((file for file in list_level(within)[0] if file.path == name), None)
    if info is None:
        return None
    if info.size_bytes > FILE_BYTES_MAX:
        got = f"{info.size_bytes / 2**20:.0f} MB"
        raise StorageError(within.child(name).uri, got, f"up to {FILE_BYTES_MAX // 2**20} MB to be shown")
    return read_bytes(within, name)
