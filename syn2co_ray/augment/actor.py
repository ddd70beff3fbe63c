"""The augmentation actor: a block of encoded records in, a block of uint8 views out."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.quarantine import SparePool, decode_or_replace, make_decoder
from ..data.stream import BlockWork, fetch_stream, views_columns
from ..spec.augment import AugmentSpec
from ..spec.errors import Syn2coError, error_to_json
from ..spec.job import TrainingSpec
from .views import ViewMaker

NO_VIEWS = np.zeros((1, 1, 1, 1, 1), dtype=np.uint8)


class ViewActor:
    """Decodes records and makes their views; one CPU thread (or a GPU share) each.

    A training worker that makes its own views runs one in threads of its own (see `train.own_views`); all it
    keeps are spares, which are the same whoever reads them first.

    Columns in (one row, see `data.stream.BLOCK_SCHEMA`): epoch, first_step, steps, rank, and lists key,
    image (encoded bytes), source, label, repeat; read_s.
    Columns out (one row): epoch, first_step, steps, rank, `views_0`, ... uint8 (steps * images_per_rank,
    views, 3, H, W) for each size of views, and `notes`, a JSON text with the keys, sources and labels in row
    order, the records that were replaced because they could not be decoded, and what the block took to make
    (`BlockWork`); or `error`, which the consumer raises.
    """

    def __init__(
        self,
        boxed: list[Any],
        augment: AugmentSpec,
        seed: int,
        image_pixels_max: int,
        device: str | None = None,
    ) -> None:
        stream = fetch_stream(boxed)
        self.name = uuid.uuid4().hex
        self.views = ViewMaker(augment, seed, device)
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
        names = ("epoch", "key", "image", "source", "label", "repeat", "read_s")
        row = {name: block[name][0].as_py() for name in names}
        started = time.perf_counter()
        used, images, quarantined = decode_or_replace(
            row["key"], row["image"], row["source"], row["label"], row["epoch"], self.spares
        )
        keys = [key for key, _ in used]
        decoded = time.perf_counter()
        views = self.views(images, keys, [row["epoch"]] * len(keys), row["repeat"])
        work = BlockWork(
            maker=self.name,
            images=len(images),
            read_s=row["read_s"],
            decode_s=decoded - started,
            augment_s=time.perf_counter() - decoded,
            shorter_side_px=float(np.mean([min(image.shape[:2]) for image in images])),
        )
        notes = {
            "keys": keys,
            "sources": row["source"],
            "labels": [label for _, label in used],
            "quarantined": quarantined,
            "view_groups": len(views),
            "work": asdict(work),
        }
        return views, json.dumps(notes)


def actor_arguments(job: TrainingSpec, boxed: list[Any]) -> dict[str, Any]:
    """What a `ViewActor` of this job is built with; `boxed` as in `data.stream.fetch_stream`."""
    return {
        "boxed": boxed,
        "augment": job.augment,
        "seed": job.seed,
        "image_pixels_max": job.data.image_pixels_max,
    }
