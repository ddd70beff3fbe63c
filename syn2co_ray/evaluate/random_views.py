"""Features of several random views of some images, for the statistics that need pairs."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from ..augment.views import ViewMaker
from ..data.decode import UnreadableImage, decode_rgb
from ..data.index import read_fragments
from ..spec.augment import AugmentSpec
from ..spec.errors import DataError
from ..spec.evaluation import StatisticsSpec
from .features import Embed
from .labelled import LabelledSet

RECIPE_VIEWS = 2
IMAGES_PER_BATCH = 64


def random_views(
    labelled: LabelledSet, spec: StatisticsSpec, embed: Embed, device: torch.device, seed: int
) -> Tensor:
    """(n, views, F) features of up to `spec.images` readable images of one source, on the CPU.

    Images are chosen by a hash of seed and place; views derive from (seed, key, number).

    Raises:
        DataError: fewer than two of them can be decoded.
    """
    (index,) = labelled.indexes
    maker = ViewMaker(_recipe(spec, labelled.image_size), seed, "cpu")
    fragments = np.repeat(np.arange(index.num_fragments), index.fragment_rows)
    rows = np.concatenate([np.arange(count) for count in index.fragment_rows])
    order = drawn_places(len(rows), spec.images, seed)
    parts = []
    for start in range(0, len(order), IMAGES_PER_BATCH):
        images, keys = [], []
        wanted = [(int(fragments[p]), rows[p : p + 1]) for p in order[start : start + IMAGES_PER_BATCH]]
        for table in read_fragments(index, wanted, labelled.object_store, 4, ("key", "image")):
            try:
                image = decode_rgb(table["image"][0].as_py() or b"", pixels_max=labelled.image_pixels_max)
            except UnreadableImage:
                continue
            images.append(image)
            keys.append(table["key"][0].as_py())
        if images:
            parts.append(_features(maker, images, keys, spec.views, embed, device))
    found = torch.cat(parts) if parts else torch.zeros(0, spec.views, 1)
    if len(found) < 2:
        raise DataError("statistics", f"{len(found)} readable images", "two or more", "check data.eval")
    return found


def drawn_places(total: int, count: int, seed: int) -> list[int]:
    """Up to `count` of the places below `total`, by a hash of seed and place: sources are often sorted."""
    return sorted(range(total), key=lambda place: _draw(seed, place))[:count]


def _recipe(spec: StatisticsSpec, image_size: int) -> AugmentSpec:
    return AugmentSpec(
        recipe="moco_v2",
        image_size=image_size,
        crop_scale=spec.crop_scale,
        flip_probability=spec.flip_probability,
        backend="opencv",
    )


def _features(
    maker: ViewMaker,
    images: list[np.ndarray],
    keys: list[str],
    views: int,
    embed: Embed,
    device: torch.device,
) -> Tensor:
    # The recipe draws two views at a time; its epochs count the pairs.
    pairs = [
        maker(images, keys, [number] * len(keys), [0] * len(keys))[0]
        for number in range(math.ceil(views / RECIPE_VIEWS))
    ]
    made = np.concatenate(pairs, axis=1)[:, :views]
    features = [
        embed(torch.from_numpy(made[:, view].copy()).to(device)).float().cpu() for view in range(views)
    ]
    return torch.stack(features, dim=1)


def _draw(seed: int, place: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0statistics\0{place}".encode(), digest_size=8).digest()
