"""The augmentation actor: a block of encoded records in, a block of uint8 views out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.quarantine import SparePool, decode_or_replace, make_decoder
from ..data.stream import fetch_stream
from ..spec.augment import AugmentSpec
from .views import ViewMaker


class ViewActor:
    """Decodes records and makes their views; one CPU thread (or a GPU share) each.

    Columns in (one row, see `data.stream.BLOCK_SCHEMA`): epoch, first_step, steps, rank, and lists key,
    image (encoded bytes), source, repeat.
    Columns out (one row): epoch, first_step, steps, rank, `views` uint8 (steps * images_per_rank,
    views, 3, H, W), and `notes`, a JSON text with the keys and sources in row order and the records
    that were replaced because they could not be decoded.
    """

    def __init__(self, boxed: list[Any], augment: AugmentSpec, seed: int, image_pixels_max: int) -> None:
        stream = fetch_stream(boxed)
        self.views = ViewMaker(augment, seed)
        self.spares = SparePool(seed, stream.indexes, stream.object_store, make_decoder(image_pixels_max))

    def __call__(self, block: pa.Table) -> dict[str, Any]:
        row = {name: block[name][0].as_py() for name in ("epoch", "key", "image", "source", "repeat")}
        keys, images, quarantined = decode_or_replace(
            row["key"], row["image"], row["source"], row["epoch"], self.spares
        )
        views = self.views(images, keys, [row["epoch"]] * len(keys), row["repeat"])
        notes = {"keys": keys, "sources": row["source"], "quarantined": quarantined}
        passed = {name: block[name].to_numpy() for name in ("epoch", "first_step", "steps", "rank")}
        return {**passed, "views": views[None], "notes": np.array([json.dumps(notes)], dtype=object)}
