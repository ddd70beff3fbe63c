"""Unreadable images: counted, listed, and replaced so that every step keeps its size.

A bad record is replaced by a *spare*: a record of the same source, out of a small set that is drawn
once for (seed, source). Which spare is a pure function of (seed, epoch, key), so the replacement does
not depend on which actor met the bad image, nor on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..spec.errors import DataError
from ..spec.source import ObjectStoreSpec
from .decode import UnreadableImage, decode_rgb
from .index import SourceIndex, read_fragments
from .randomness import digest_words, named_generator

SPARES_PER_SOURCE = 64

MIN_IMAGES_BEFORE_STOPPING = 256
"""The share of unreadable images is judged once this many were seen: one bad image among the first ten
says little. A run with fewer readable images than that stops anyway when no spare can be read."""


Used = tuple[str, str | None]
"""Key and label of a record that is trained on."""


@dataclass
class SparePool:
    """Spares of all sources of a run, read when the first bad image turns up."""

    seed: int
    indexes: tuple[SourceIndex, ...]
    object_store: ObjectStoreSpec
    decode: Callable[[bytes], np.ndarray]
    _spares: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    def replacement(self, source: int, epoch: int, key: str) -> tuple[Used, np.ndarray]:
        """Key and label, and decoded image (H, W, 3) uint8, of what stands in for the bad record.

        Raises:
            DataError: none of the source's spares can be read.
        """
        if source == len(self.indexes):
            raise DataError(
                f"data.live: image {key}",
                "cannot be decoded",
                "at most data.image_pixels_max pixels",
                "raise data.image_pixels_max or lower generator.pipeline.image_size",
            )
        spares = self._of(source)
        start = int(digest_words(self.seed, "spare", epoch, key)[0] % np.uint64(len(spares)))
        for place in range(len(spares)):
            spare = spares[(start + place) % len(spares)]
            try:
                return (spare["key"], spare["label"]), self.decode(spare["image"])
            except UnreadableImage:
                continue
        raise DataError(
            self.indexes[source].source.uri,
            f"none of {len(spares)} images drawn from it can be decoded (first bad key: {key})",
            "JPEG, PNG, WebP, GIF or BMP images",
            "check image_column and the files; `quarantine.jsonl` in the run folder lists reasons",
        )

    def _of(self, source: int) -> list[dict[str, Any]]:
        if source not in self._spares:
            index = self.indexes[source]
            order = named_generator(self.seed, "spares", source).permutation(len(index.fragment_rows))
            requests: list[tuple[int, np.ndarray | None]] = []
            rows = 0
            for fragment in order:
                take = min(int(index.fragment_rows[fragment]), SPARES_PER_SOURCE - rows)
                requests.append((int(fragment), np.arange(take)))
                rows += take
                if rows >= SPARES_PER_SOURCE:
                    break
            tables = read_fragments(index, requests, self.object_store, threads=4)
            self._spares[source] = [
                row for table in tables for row in table.select(["key", "image", "label"]).to_pylist()
            ]
        return self._spares[source]


def decode_or_replace(
    keys: list[str],
    images: list[bytes],
    sources: list[int],
    labels: list[str | None],
    epoch: int,
    spares: SparePool,
) -> tuple[list[Used], list[np.ndarray], list[dict[str, object]]]:
    """Decode records; stand in for those that cannot be.

    Returns:
        Keys with labels and images (H, W, 3) uint8 as trained on, and one entry for each replaced record:
        its row, key, source number, reason and the key that replaced it.
    """
    used: list[Used] = []
    decoded, quarantined = [], []
    for row, (key, encoded, source) in enumerate(zip(keys, images, sources, strict=True)):
        try:
            decoded.append(spares.decode(encoded))
            used.append((key, labels[row]))
        except UnreadableImage as error:
            spare, image = spares.replacement(source, epoch, key)
            decoded.append(image)
            used.append(spare)
            quarantined.append(
                {"row": row, "key": key, "source": source, "reason": str(error), "replaced_by": spare[0]}
            )
    return used, decoded, quarantined


def make_decoder(pixels_max: int) -> Callable[[bytes], np.ndarray]:
    """`decode_rgb` with its size limit filled in."""

    def decode(encoded: bytes) -> np.ndarray:
        return decode_rgb(encoded or b"", pixels_max=pixels_max)

    return decode
