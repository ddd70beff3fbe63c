"""Write the data sets that `data.prepare` of a job asks for, once each.

A step writes `<into>/_preparing.json`, then Parquet shards, and last `<into>/_prepared.json` with its
parameters, counts and checksums. A step whose marker and files are there is skipped; one that was interrupted
is written again, byte for byte the same; a place that holds anything else is never touched.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..spec.data import DigitsStep, PrepareStep, SubsetStep
from ..spec.errors import DataError
from ..spec.source import ObjectStoreSpec
from ..storage import Store, delete, list_files, open_store, publish_bytes
from .place import check_unused, occupied, read_marker
from .shards import SHARD_NAME, key_fraction, key_order, write_shards
from .subset import subset_shards

MARKER = "_prepared.json"
STARTED = "_preparing.json"
FORMAT_VERSION = 1
DIGITS_PER_SHARD, DIGITS_PER_ROW_GROUP = 256, 64

Log = Callable[[str], None]


def run_prepare(steps: Sequence[PrepareStep], options: ObjectStoreSpec, log: Log) -> None:
    """Do the steps in order, skipping those whose output is whole.

    Args:
        steps: `data.prepare` of the job.
        options: how to reach object stores.
        log: gets one line a step.

    Raises:
        DataError: `into` holds something else; a subset's source has rows without a label.
        StorageError: the place cannot be read or written.
    """
    places = [open_store(step.into, options).uri for step in steps]
    for number, place in enumerate(places):
        for other in places[:number]:
            if f"{place}/".startswith(f"{other}/") or f"{other}/".startswith(f"{place}/"):
                raise DataError(
                    where=f"data.prepare.{number}.into",
                    got=f"{place} and {other} lie in one another",
                    allowed="a place of its own for every step",
                    next_step="choose another `into`",
                )
    for step in steps:
        _run_step(step, options, log)


def step_hash(step: PrepareStep) -> str:
    """SHA-256 (hex) of what a step computes: its parameters without the place it writes to."""
    parameters = step.model_dump(mode="json", exclude={"into"})
    text = json.dumps({"version": FORMAT_VERSION, **parameters}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _run_step(step: PrepareStep, options: ObjectStoreSpec, log: Log) -> None:
    store = open_store(step.into, options)
    name = f"{step.dataset} in {store.uri}"
    marker = read_marker(store, MARKER)
    if marker is not None:
        if marker.get("step") != step_hash(step):
            raise occupied(store, f"it holds {marker.get('parameters')}, prepared with other parameters")
        if _is_whole(store, marker):
            log(f"prepared before: {name} ({_counts(marker['counts'])})")
            return
        log(f"files of {name} are missing: written again")
    else:
        check_unused(store, STARTED)
    parameters = step.model_dump(mode="json", exclude={"into"})
    publish_bytes(store, STARTED, json.dumps({"parameters": parameters}, sort_keys=True).encode())
    files: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for path, rows, data in _shards(step, options, log):
        publish_bytes(store, path, data)
        files[path] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "rows": rows}
        folder = path.rpartition("/")[0] or "images"
        counts[folder] = counts.get(folder, 0) + rows
    _delete_leftovers(store, files)
    whole = {"step": step_hash(step), "parameters": parameters, "counts": counts, "files": files}
    publish_bytes(store, MARKER, json.dumps(whole, indent=1, sort_keys=True).encode())
    delete(store, STARTED)
    log(f"prepared {name}: {_counts(counts)} in {len(files)} files")


def _shards(step: PrepareStep, options: ObjectStoreSpec, log: Log) -> Iterator[tuple[str, int, bytes]]:
    if isinstance(step, SubsetStep):
        return subset_shards(step, options, log)
    return _digits_shards(step)


def _digits_shards(step: DigitsStep) -> Iterator[tuple[str, int, bytes]]:
    """Shards (path, rows, bytes) of scikit-learn's digits: 8 x 8 grey PNG, 0..255, labels 0 to 9."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    keys = [f"digits/{number:04d}" for number in range(len(digits.target))]
    in_eval = np.array([key_fraction(key, salt="split") < step.eval_share for key in keys])

    def row(number: int) -> tuple[str, bytes, str]:
        # Ink is 0..16 in the data set.
        pixels = np.round(digits.images[number] * (255 / 16)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return keys[number], buffer.getvalue(), str(digits.target[number])

    for folder, chosen in (("train", np.flatnonzero(~in_eval)), ("eval", np.flatnonzero(in_eval))):
        if not len(chosen):
            raise DataError(
                where=step.into,
                got=f"eval_share {step.eval_share} leaves no image for {folder}",
                allowed="a share that leaves images on both sides",
                next_step="change eval_share",
            )
        order = chosen[key_order([keys[number] for number in chosen])]
        shards = write_shards(map(row, order.tolist()), DIGITS_PER_SHARD, DIGITS_PER_ROW_GROUP)
        for name, rows, data in shards:
            yield f"{folder}/{name}", rows, data


def _is_whole(store: Store, marker: dict[str, Any]) -> bool:
    sizes = {file.path: file.size_bytes for file in list_files(store, missing_ok=True)}
    return all(sizes.get(path) == file["bytes"] for path, file in marker["files"].items())


def _delete_leftovers(store: Store, written: dict[str, dict[str, Any]]) -> None:
    # An interrupted step of other parameters may have left shards; they must not join these.
    folders = {path.rpartition("/")[0] for path in written}
    for file in list_files(store):
        folder, _, name = file.path.rpartition("/")
        if file.path not in written and folder in folders and SHARD_NAME.fullmatch(name):
            delete(store, file.path)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {folder}" for folder, count in sorted(counts.items()))
