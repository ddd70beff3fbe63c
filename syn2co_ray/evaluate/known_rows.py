"""Figures of baselines that another trial of a search has measured, by the hash of what decides them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..spec.job import PretrainSpec
from ..storage import Store, exists, publish_bytes, read_bytes
from .labelled import LabelledSet

FOLDER = "baselines"
NO_EFFECT_ON_WEIGHTS = {"negatives", "temperature"}
"""Keys of `method` that say nothing about an untrained encoder: a search over them measures it once."""


def row_name(
    job: PretrainSpec, bank: LabelledSet, queries: LabelledSet, features: str, *, untrained: bool
) -> str:
    """File of a baseline's row: a hash of the images, how they are seen and compared, and the network."""
    content: dict[str, Any] = {
        "features": features,
        "bank": [index.fingerprint for index in bank.indexes],
        "bank_uris": [index.source.uri for index in bank.indexes],
        "queries": [index.fingerprint for index in queries.indexes],
        "queries_uris": [index.source.uri for index in queries.indexes],
        "image_size": queries.image_size,
        "image_pixels_max": queries.image_pixels_max,
        "knn": job.evaluate.knn.model_dump(mode="json", exclude={"every_epochs"}),
        "linear": job.evaluate.linear.model_dump(mode="json") if job.evaluate.linear else None,
        "seed": job.seed,
    }
    if untrained:
        content["method"] = job.method.model_dump(mode="json", exclude=NO_EFFECT_ON_WEIGHTS)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32] + ".json"


def known_row(shared: Store, name: str) -> dict[str, Any] | None:
    """A row that another trial left, or None."""
    store = shared.child(FOLDER)
    return json.loads(read_bytes(store, name)) if exists(store, name) else None


def leave_row(shared: Store, name: str, row: dict[str, Any]) -> None:
    """A row for the other trials."""
    publish_bytes(shared.child(FOLDER), name, json.dumps(row, indent=1).encode())
