"""Frozen features of labelled images: every rank reads and embeds its part of a source."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..augment.eval_view import eval_view
from ..data.decode import UnreadableImage, decode_rgb
from ..data.index import SourceIndex, read_fragments
from .labelled import LabelledSet, unlabelled

RAW_PIXELS_SIZE_MAX = 32
"""Raw pixels are compared at this height and width at most (3,072 features)."""

Embed = Callable[[Tensor], Tensor]
"""uint8 images (n, 3, S, S) on the device -> float features (n, F)."""


class Ranks(Protocol):
    """What evaluation needs of a distributed run (`train.context.TrainContext` has it)."""

    rank: int
    world_size: int
    device: torch.device

    def gathered(self, value: Any) -> list[Any]: ...

    def collected(self, value: Any) -> list[Any] | None: ...


@dataclass(frozen=True)
class FeatureChunk:
    """Features of some records: `numbers` (n,) their places in the set, `labels` (n,) int64 hashes."""

    numbers: Tensor
    labels: Tensor
    features: dict[str, Tensor]


def label_hash(label: str) -> int:
    """A class as 63 bits: equal on every rank without a common table of classes."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Embedded:
    """The readable ones of some fragments' records: their places among all rows (n,), rows and features."""

    places: np.ndarray
    rows: list[dict[str, Any]]
    features: dict[str, Tensor]
    unreadable: list[str]
    """Keys of the others."""


Alter = Callable[[np.ndarray, str], np.ndarray]
"""A view (3, S, S) uint8 and its record's key -> another view."""


def chunks(labelled: LabelledSet, embeds: dict[str, Embed], ranks: Ranks) -> Iterator[FeatureChunk]:
    """Features of this rank's part of a set, a batch at a time (memory is flat in the set's size).

    Ranks take fragments in turn. Images that cannot be decoded are left out.
    """
    first = 0
    with ThreadPoolExecutor(max_workers=2) as decoders:
        for index in labelled.indexes:
            starts = first + np.concatenate([[0], np.cumsum(index.fragment_rows)[:-1]])
            mine = range(ranks.rank, len(index.fragment_rows), ranks.world_size)
            for group in fragment_groups(mine, index.fragment_rows, labelled.images_per_batch):
                found = embedded(labelled, index, group, embeds, ranks.device, decoders)
                if not found.rows:
                    continue
                numbers = np.concatenate([starts[f] + np.arange(index.fragment_rows[f]) for f in group])
                yield FeatureChunk(
                    torch.from_numpy(numbers[found.places]),
                    torch.tensor([label_hash(row["label"]) for row in found.rows]),
                    found.features,
                )
            first += index.num_records


def embedded(
    labelled: LabelledSet,
    index: SourceIndex,
    fragments: Sequence[int],
    embeds: dict[str, Embed],
    device: torch.device,
    decoders: ThreadPoolExecutor,
    alter: Alter | None = None,
) -> Embedded:
    """Features of the records of some fragments, in one batch, on the CPU.

    Raises:
        DataError: a record without a label.
    """
    tables = read_fragments(index, [(f, None) for f in fragments], labelled.object_store, threads=4)
    rows = [row for table in tables for row in table.select(["key", "image", "label"]).to_pylist()]
    views = list(decoders.map(functools.partial(_view, labelled=labelled, index=index, alter=alter), rows))
    kept = [i for i, view in enumerate(views) if view is not None]
    features: dict[str, Tensor] = {}
    if kept:
        images = torch.from_numpy(np.stack([view for view in views if view is not None])).to(device)
        features = {name: embed(images).float().cpu() for name, embed in embeds.items()}
    unreadable = [rows[i]["key"] for i, view in enumerate(views) if view is None]
    return Embedded(np.array(kept, dtype=np.int64), [rows[i] for i in kept], features, unreadable)


def raw_pixels(images: Tensor) -> Tensor:
    """uint8 (n, 3, S, S) -> float (n, 3 s s) with s = min(S, 32): the features of no network at all."""
    size = min(images.shape[-1], RAW_PIXELS_SIZE_MAX)
    pixels = images.float() / 255
    if size < images.shape[-1]:
        pixels = torch.nn.functional.interpolate(pixels, size=(size, size), mode="area")
    return pixels.flatten(1)


def _view(
    row: dict[str, Any], labelled: LabelledSet, index: SourceIndex, alter: Alter | None
) -> np.ndarray | None:
    if row["label"] is None and labelled.labels_needed:
        raise unlabelled("data.eval", index, row["key"])
    try:
        image = decode_rgb(row["image"] or b"", pixels_max=labelled.image_pixels_max)
    except UnreadableImage:
        return None
    view = eval_view(image, labelled.image_size)
    return view if alter is None else alter(view, row["key"])


def fragment_groups(fragments: Sequence[int], rows: np.ndarray, images_per_batch: int) -> Iterator[list[int]]:
    """Runs of fragments that together hold at least a batch (a fragment is never cut)."""
    group: list[int] = []
    held = 0
    for fragment in fragments:
        group.append(int(fragment))
        held += int(rows[fragment])
        if held >= images_per_batch:
            yield group
            group, held = [], 0
    if group:
        yield group
