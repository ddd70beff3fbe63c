"""An ingested data set as files: what its place is claimed for, which shards are there, its manifest.

<into>/
    _ingest/begun.json              source and options; written first, others are refused from then on
    part-00000-<id>.parquet ...     whole or absent; the id is the hash of what the shard is to hold
    _ingest/<shard>.json            what is known about a shard; written after it
    manifest.json _quarantine.jsonl _ingested.json    written when all shards are there, the last one last
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ..spec.errors import DataError
from ..spec.identity import resolved
from ..storage import Store, list_files, open_store, publish_bytes, read_bytes
from .ingest import IngestPlan, make_shard
from .place import check_unused, occupied, read_marker

BEGUN: Final = "_ingest/begun.json"
MANIFEST, QUARANTINE, MARKER = "manifest.json", "_quarantine.jsonl", "_ingested.json"
READ_THREADS: Final = 16
EXAMPLES: Final = 3

About = dict[str, Any]
"""What is known about a shard; see `make_shard`."""


def check_apart(source: str, into: Store) -> None:
    """Refuse a place inside the source, which would take the shards for its own.

    Raises:
        DataError: `into` lies in `source`.
    """
    folder = open_store(source, into.options).uri
    if f"{into.uri}/".startswith(f"{folder}/"):
        raise occupied(into, f"it lies in the source {folder}")


def claim(store: Store, plan: IngestPlan) -> None:
    """Say what the place is for, or check that it is for the same.

    Raises:
        DataError: it holds something else, was begun with other options, or the source has changed since.
    """
    check_unused(store, BEGUN)
    if read_marker(store, BEGUN) is None:
        publish_bytes(store, BEGUN, json.dumps(_claim_of(plan), indent=1).encode())
    # Read back: another command may have claimed it in the same moment.
    found, mine = read_marker(store, BEGUN) or {}, _claim_of(plan)
    begun, now = found.get("source", {}), mine["source"]
    if begun.get("uri") == now["uri"] and begun != now:
        held = f"{begun.get('images')} images in {begun.get('files')} files"
        holds = f"{now['images']} in {now['files']}"
        raise occupied(store, f"its source {now['uri']} was changed since it was begun: {held}, now {holds}")
    if found.get("content") != mine["content"]:
        before = found.get("options", {})
        others = [
            f"{name} {before.get(name)}"
            for name in mine["options"]
            if before.get(name) != mine["options"][name]
        ]
        what = f"other options ({', '.join(others)})" if others else f"another source ({begun.get('uri')})"
        raise occupied(store, f"it was begun with {what}")


def publish_shard(plan: IngestPlan, number: int) -> About:
    """Make shard `number` and write it, then what is known about it; that is also what comes back."""
    store = open_store(plan.spec.into, plan.spec.into_store)
    data, about = make_shard(plan, number)
    publish_bytes(store, plan.file_of(number), data)
    publish_bytes(store, _about_file(plan, number), json.dumps(about, sort_keys=True).encode())
    return about


def known_shards(store: Store, plan: IngestPlan) -> dict[int, About]:
    """What is known about the shards that are there whole, by their numbers."""
    sizes = {file.path: file.size_bytes for file in list_files(store, missing_ok=True)}
    numbers = [
        number
        for number in range(plan.num_shards)
        if plan.file_of(number) in sizes and _about_file(plan, number) in sizes
    ]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        abouts = list(
            pool.map(lambda number: json.loads(read_bytes(store, _about_file(plan, number))), numbers)
        )
    return {
        number: about
        for number, about in zip(numbers, abouts, strict=True)
        if about["bytes"] == sizes[about["file"]]
    }


def check_quarantine(store: Store, plan: IngestPlan, shards: Mapping[int, About]) -> None:
    """List unreadable images, and refuse to go on when they are too many of the source's.

    Raises:
        DataError: over `quarantine_share_max`; `_quarantine.jsonl` is written.
    """
    share_max, images = plan.spec.quarantine_share_max, plan.index.num_records
    if sum(len(about["unreadable"]) for about in shards.values()) <= share_max * images:
        return
    publish_quarantine(store, shards)
    unreadable = unreadable_of(shards)
    shown = "; ".join(f"{entry['key']}: {entry['reason']}" for entry in unreadable[:EXAMPLES])
    raise DataError(
        where=plan.index.source.uri,
        got=f"{len(unreadable)} of {images} images cannot be decoded, such as {shown}",
        allowed=f"at most --quarantine-share-max {share_max:g} of them",
        next_step=f"see {store.uri}/{QUARANTINE}; repair the source, or raise the share: what is done stays",
    )


def unreadable_of(shards: Mapping[int, About]) -> list[dict[str, str]]:
    """All unreadable images, in the order of the shards: key, reason, source."""
    return [entry for number in sorted(shards) for entry in shards[number]["unreadable"]]


def publish_quarantine(store: Store, shards: Mapping[int, About]) -> None:
    """Write `_quarantine.jsonl`, one line an image; an empty file when all are readable."""
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in unreadable_of(shards)]
    publish_bytes(store, QUARANTINE, "".join(lines).encode())


def finish(store: Store, plan: IngestPlan, shards: Mapping[int, About]) -> dict[str, Any]:
    """Write manifest and quarantine, then the marker that all is whole; the manifest comes back."""
    abouts = [shards[number] for number in range(plan.num_shards)]
    labels = sum((Counter(about["images_per_label"]) for about in abouts), Counter[str]())
    shown = ("file", "rows", "bytes", "sha256")
    manifest = {
        **_claim_of(plan),
        "images": sum(about["rows"] for about in abouts),
        "unreadable": len(unreadable_of(shards)),
        "image_bytes_before": sum(about["image_bytes_before"] for about in abouts),
        "image_bytes_after": sum(about["image_bytes_after"] for about in abouts),
        "images_per_label": dict(sorted(labels.items())),
        "shards": [{name: about[name] for name in shown} for about in abouts],
    }
    data = json.dumps(manifest, indent=1).encode()
    publish_quarantine(store, shards)
    publish_bytes(store, MANIFEST, data)
    marker = {"content": plan.content, "manifest_sha256": hashlib.sha256(data).hexdigest()}
    publish_bytes(store, MARKER, json.dumps(marker).encode())
    return manifest


def finished_manifest(store: Store, shards: Mapping[int, About]) -> dict[str, Any] | None:
    """The manifest of a whole data set, None while any of it is missing."""
    marker, manifest = read_marker(store, MARKER), read_marker(store, MANIFEST)
    if marker is None or manifest is None or len(shards) < len(manifest["shards"]):
        return None
    found = hashlib.sha256(read_bytes(store, MANIFEST)).hexdigest()
    return manifest if marker.get("manifest_sha256") == found else None


def _about_file(plan: IngestPlan, number: int) -> str:
    return f"_ingest/{plan.file_of(number).removesuffix('.parquet')}.json"


def _claim_of(plan: IngestPlan) -> dict[str, Any]:
    index, options = plan.index, resolved(plan.spec)
    for name in ("source", "into", "object_store", "quarantine_share_max"):
        options.pop(name)
    found = resolved(index.source)
    for name in ("format", "origin", "image_column", "label_column", "key_column"):
        options[name] = found[name]
    modified = index.file_modified_ns
    source = {
        "uri": index.source.uri,
        "files": len(index.files),
        "images": index.num_records,
        "fingerprint": index.fingerprint,
        # Files of the same sizes that were written again, where the store says when.
        "modified_sha256": None if modified is None else hashlib.sha256(modified.tobytes()).hexdigest(),
    }
    return {"content": plan.content, "source": source, "options": options}
