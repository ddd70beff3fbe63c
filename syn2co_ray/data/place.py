"""A place that a data set is written to: empty, or begun before by the same command, never anything else."""

from __future__ import annotations

import json
from typing import Any

from ..spec.errors import DataError
from ..storage import Store, exists, list_files, read_bytes

PROBE_MARK = ".syn2co-probe-"
"""Begins the names of objects that show whether a place can be reached; a killed probe leaves them."""


def check_unused(store: Store, started: str) -> None:
    """Refuse a place that holds files, but not the file `started`, which is written there before all others.

    Marks of a probe do not count.

    Raises:
        DataError: it holds something else.
    """
    there = [file.path for file in list_files(store, missing_ok=True)]
    paths = [path for path in there if not path.rpartition("/")[2].startswith(PROBE_MARK)]
    if paths and started not in paths:
        raise occupied(store, f"it holds {len(paths)} files that something else wrote, such as {paths[0]}")


def read_marker(store: Store, name: str) -> dict[str, Any] | None:
    """The JSON object in the file `name`; None when it is not there, DataError when it is something else."""
    if not exists(store, name):
        return None
    try:
        marker = json.loads(read_bytes(store, name))
        if isinstance(marker, dict):
            return marker
    except ValueError:
        pass
    raise occupied(store, f"its {name} is no JSON object")


def occupied(store: Store, got: str) -> DataError:
    """The error for a place that holds something else."""
    return DataError(
        where=store.uri,
        got=got,
        allowed="an empty place, or what the same step wrote before",
        next_step="choose another `into`, or delete this place if nothing needs it",
    )
