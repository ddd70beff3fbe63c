"""Checkpoints as files: whole or absent, verified when read. Imports no torch.

    checkpoints/step-000000120/
        method.safetensors      both encoders, heads, queues with pointers
        optimizer.safetensors   AdamW moments and step counts, by parameter name
        state.json              position, resolved spec and its hash, world size, run counters
        MANIFEST.json           sizes and SHA-256 of the others, written last

A checkpoint without a manifest, or whose bytes do not match it, does not count as one.
"""

from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..spec.errors import CheckpointError
from ..storage import Store, delete, list_files, publish_bytes, read_bytes

MANIFEST = "MANIFEST.json"
METHOD = "method.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FILES = (METHOD, OPTIMIZER, STATE)
_NAME = re.compile(r"step-(\d{9})/([^/]+)")


def publish_checkpoint(run: Store, step: int, files: dict[str, bytes], keep: int) -> str:
    """Publish the files of a checkpoint, then drop all but the newest `keep`; returns its uri.

    A run that publishes a step has found nothing whole beyond it, so later ones are damaged, and go too; as
    do rests of earlier ones whose writer was stopped.
    """
    store = _folder(run, step)
    with ThreadPoolExecutor(len(files)) as pool:
        list(pool.map(lambda item: publish_bytes(store, *item), files.items()))
    manifest = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    publish_bytes(store, MANIFEST, json.dumps(manifest, indent=1).encode())
    found = _found(run)
    kept = sorted(old for old, names in found.items() if old <= step and MANIFEST in names)[-keep:]
    for old in found.keys() - {step, *kept}:
        _drop(run, old, found[old])
    return store.uri


def complete_steps(run: Store) -> list[int]:
    """Steps of all checkpoints that have a manifest, oldest first."""
    return sorted(step for step, names in _found(run).items() if MANIFEST in names)


def newest_whole(run: Store, spec_hash: str) -> tuple[int, dict[str, bytes], list[str]]:
    """Step and verified files of the newest whole checkpoint (0 and none without one).

    The list says what was wrong with newer ones.

    Raises:
        CheckpointError: the newest whole checkpoint belongs to another spec.
    """
    rejected = []
    for step in sorted(_found(run), reverse=True):
        try:
            files = read_checkpoint(run, step)
        except CheckpointError as error:
            rejected.append(str(error))
            continue
        found = json.loads(files[STATE])["spec_hash"]
        if found != spec_hash:
            raise CheckpointError(
                _folder(run, step).uri,
                f"belongs to spec {found[:8]}",
                f"a checkpoint of spec {spec_hash[:8]}",
                "use another name or storage for this job, or restore the job file the run was started with",
            )
        return step, files, rejected
    return 0, {}, rejected


def read_checkpoint(run: Store, step: int) -> dict[str, bytes]:
    """Read and verify the files of one checkpoint.

    Raises:
        CheckpointError: no manifest, a missing file, a wrong size or checksum.
    """
    store = _folder(run, step)
    names = _found(run).get(step, set())
    if MANIFEST not in names:
        raise CheckpointError(
            store.uri, "has no manifest (its writer was stopped)", "", "an older one is used"
        )
    files = {}
    for name, expected in _manifest(store).items():
        if name not in names:
            raise CheckpointError(store.uri, f"{name} is missing", "", "an older one is used")
        files[name] = read_bytes(store, name)
        if len(files[name]) != expected["bytes"] or _sha256(files[name]) != expected["sha256"]:
            raise CheckpointError(
                store.uri,
                f"{name} has {len(files[name])} bytes that do not match its checksum",
                f"{expected['bytes']} bytes, SHA-256 {expected['sha256'][:12]}...",
                "an older one is used",
            )
    return files


def _manifest(store: Store) -> dict[str, dict[str, Any]]:
    try:
        manifest = json.loads(read_bytes(store, MANIFEST))
        whole = manifest.keys() >= set(FILES)
        whole = whole and all({"bytes", "sha256"} <= expected.keys() for expected in manifest.values())
    except (ValueError, AttributeError):
        whole = False
    if not whole:
        raise CheckpointError(store.uri, f"{MANIFEST} is damaged", "", "an older one is used")
    return dict(manifest)


def _folder(run: Store, step: int) -> Store:
    return run.child("checkpoints", f"step-{step:09d}")


def _found(run: Store) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for info in list_files(run.child("checkpoints"), missing_ok=True):
        match = _NAME.fullmatch(info.path)
        if match:
            found.setdefault(int(match.group(1)), set()).add(match.group(2))
    return found


def _drop(run: Store, step: int, names: set[str]) -> None:
    store = _folder(run, step)
    # The manifest goes first: a half-deleted checkpoint must not look whole.
    delete(store, MANIFEST)
    with ThreadPoolExecutor(len(FILES)) as pool:
        list(pool.map(lambda name: delete(store, name), names - {MANIFEST}))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
