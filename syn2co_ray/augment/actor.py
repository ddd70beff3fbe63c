"""The augmentation actor: a block of encoded records in, a block of uint8 views out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.quarantine import SparePool, decode_or_replace, make_decoder
from ..data.stream import fetch_stream, views_columns
from ..spec.augment import AugmentSpec
from ..spec.errors import Syn2coError, error_to_json
from .views import ViewMaker

NO_VIEWS = np.zeros((1, 1, 1, 1, 1), dtype=np.uint8)


class ViewActor:
    """Decodes records and makes their views; one CPU thread (or a GPU share) each.

    Columns in (one row, see `data.stream.BLOCK_SCHEMA`): epoch, first_step, steps, rank, and lists key,
    image (encoded bytes), source, label, repeat.
    Columns out (one row): epoch, first_step, steps, rank, `views_0`, ... uint8 (steps * images_per_rank,
    views, 3, H, W) for each size of views, and `notes`, a JSON text with the keys, sources and labels in row
    order and the records that were replaced because they could not be decoded; or `error`, which the
    consumer raises.
    """

    def __init__(self, boxed: list[Any], augment: AugmentSpec, seed: int, image_pixels_max: int) -> None:
        stream = fetch_stream(boxed)
        self.views = ViewMaker(augment, seed)
        self.spares = SparePool(seed, stream.indexes, stream.object_store, make_decoder(image_pixels_max))

    def __call__(self, block: pa.Table) -> dict[str, Any]:
        error, notes = block["error"][0].as_py(), "{}"
        views = [NO_VIEWS] * len(self.views.groups)
        if error is None:
            try:
                views, notes = self._views_and_notes(block)
            except Syn2coError as failure:
                error = error_to_json(failure)
        passed = {name: block[name].to_numpy() for name in ("epoch", "first_step", "steps", "rank")}
        texts = {"notes": np.array([notes], dtype=object), "error": np.array([error or ""], dtype=object)}
        columns = views_columns(len(views))
        return {**passed, **texts, **{name: group[None] for name, group in zip(columns, views, strict=True)}}

    def _views_and_notes(self, block: pa.Table) -> tuple[list[np.ndarray], str]:
        names = ("epoch", "key", "image", "source", "label", "repeat")
        row = {name: block[name][0].as_py() for name in names}
        used, images, quarantined = decode_or_replace(
            row["key"], row["image"], row["source"], row["label"], row["epoch"], self.spares
        )
        keys = [key for key, _ in used]
        views = self.views(images, keys, [row["epoch"]] * len(keys), row["repeat"])
        notes = {
            "keys": keys,
            "sources": row["source"],
            "labels": [label for _, label in used],
            "quarantined": quarantined,
            "view_groups": len(views),
        }
        return views, json.dumps(notes)
