"""What trackers ask for: their libraries, no secrets in the file, a folder that they can write to."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import urlsplit

from ..errors import Fault
from ..track import TrackSpec
from .registry import rule

INSTALL = "pip install 'syn2co_ray[track]'"


@rule
def tracker_libraries_are_installed(track: TrackSpec | None) -> Iterator[Fault]:
    for library in track.libraries if track else ():
        if find_spec(library) is None:
            yield Fault(f"track.{library}", "its library is not installed here", library, INSTALL)


@rule
def addresses_hold_no_credentials(track: TrackSpec | None) -> Iterator[Fault]:
    uri = track.mlflow.tracking_uri if track and track.mlflow else None
    if uri and "@" in urlsplit(uri).netloc:
        variables = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        yield Fault("track.mlflow.tracking_uri", "a user name in it", "scheme://host:port", variables)


@rule
def offline_runs_have_a_local_folder(track: TrackSpec | None, storage: str) -> Iterator[Fault]:
    offline = track is not None and track.wandb is not None and track.wandb.mode == "offline"
    if offline and "://" in storage and not storage.startswith("file://"):
        got = f"offline with storage {storage.partition('://')[0]}://"
        yield Fault("track.wandb.mode", got, "online, or a local storage", "wandb writes to a local folder")
