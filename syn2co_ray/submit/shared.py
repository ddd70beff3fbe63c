"""What the trials of a search make once and use together, below the search's folder, named by content.

- `index/`: the list of a source's files and rows, by the hash of the source's spec without share and origin.
  Trials that start later must not train on files that were added meanwhile.
- `baselines/`: rows of untrained features (`evaluate.known_rows`).
- `live/`: shards of live sources, by the hash of what they hold: trials with equal generators and seeds, such
  as those that vary negatives, copy what another one has made. Each has a pool of its own all the same, as
  what leaves it depends on where training is. Trials that run at once may make a shard twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace

from ..data.index import SourceIndex, build_index, load_index, save_index
from ..spec.job import PretrainSpec
from ..spec.source import ObjectStoreSpec, SourceSpec
from ..storage import Store, delete, exists, list_files, open_store, publish_bytes, read_bytes
from .live import FOLDER as LIVE_FOLDER

SHARED_FOLDER, INDEX_FOLDER = "shared", "index"


def shared_by_trials(job: PretrainSpec) -> Store:
    """The folder beside `trials/`, in which the trial's run folder lies."""
    trials = open_store(job.storage, job.object_store)
    return replace(trials, uri=trials.uri.rpartition("/")[0]).child(SHARED_FOLDER)


def forget_images(search: Store) -> None:
    """Delete the shards that trials left for one another: the search is finished."""
    images = search.child(SHARED_FOLDER, LIVE_FOLDER)
    for info in list_files(images, missing_ok=True):
        delete(images, info.path)


def source_index(
    source: SourceSpec, options: ObjectStoreSpec, shared: Store | None, log: Callable[[str], None]
) -> SourceIndex:
    """What a source holds: as another trial found it; else found now and, with `shared`, left there."""
    if shared is None:
        return _built(source, options, log)
    place, name = shared.child(INDEX_FOLDER), f"{_hash_of(source, options)}.index"
    if not exists(place, name):
        publish_bytes(place, name, save_index(_built(source, options, log)))
    found = load_index(read_bytes(place, name))
    own = {"share": source.share, "origin": source.origin}
    return replace(found, source=found.source.model_copy(update=own))


def _built(source: SourceSpec, options: ObjectStoreSpec, log: Callable[[str], None]) -> SourceIndex:
    started = time.perf_counter()
    index = build_index(source, options)
    log(
        f"indexed {source.uri}: {index.num_records:,} images in {len(index.files):,} files "
        f"({time.perf_counter() - started:.1f} s)"
    )
    return index


def _hash_of(source: SourceSpec, options: ObjectStoreSpec) -> str:
    what = source.model_dump(mode="json", exclude={"share", "origin"})
    where = options.model_dump(mode="json", include={"endpoint_url", "region"})
    return hashlib.sha256(json.dumps([what, where], sort_keys=True).encode()).hexdigest()[:32]
