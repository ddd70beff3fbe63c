"""The hardest entries of a long queue, exactly, without sorting all of it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def hardest_entries(similarity: Tensor, size: int) -> Tensor:
    """Places of the `size` largest values of each row of (n, K): (n, size) int64, ascending.

    In two stages. The row is cut into blocks of w entries (strided, so that the first stage is an elementwise
    maximum); only the `size` blocks with the largest maxima can hold one of the `size` largest entries, and
    these are found among their size * w entries. w = sqrt(K / size) makes both stages equally long: 16,384
    values instead of 65,536 at SynCo's setting.

    They come sorted by place. A position is drawn uniformly, so order has no meaning; but sorted by
    similarity, or not at all, two entries that differ by a rounding error would swap places between 1 and N
    ranks, and another negative would be drawn.
    """
    entries = similarity.shape[1]
    width = math.isqrt(entries // size)
    if width < 2:
        return _largest(similarity, size)
    blocks = entries // width
    in_blocks = similarity[:, : width * blocks].unflatten(1, (width, blocks))
    best = _largest(in_blocks.amax(dim=1), size)
    values = in_blocks.gather(2, best.unsqueeze(1).expand(-1, width, -1)).flatten(1)
    if width * blocks < entries:
        values = torch.cat([values, similarity[:, width * blocks :]], dim=1)
    chosen = _largest(values, size)
    places = chosen // size * blocks + best.gather(1, chosen % size)
    return torch.where(chosen < width * size, places, chosen + width * (blocks - size))


def _largest(values: Tensor, size: int) -> Tensor:
    """Places of the `size` largest of each row of (n, m), ascending; of equal ones on a CPU the first."""
    if values.device.type == "cpu":
        return _largest_by_limit(values, size)
    return values.topk(size, dim=1, sorted=False).indices.sort(dim=1).values


@torch.compiler.disable
def _largest_by_limit(values: Tensor, size: int) -> Tensor:
    """By the smallest of them, which NumPy finds in less time than torch finds their places."""
    numbers = values.numpy()
    limit = np.partition(numbers, -size, axis=1)[:, -size, np.newaxis]
    wanted = ~(numbers < limit)  # values that are not numbers count as the largest, as in both libraries
    if np.count_nonzero(wanted) > len(numbers) * size:
        equal = wanted & ~(numbers > limit)
        spare = size - (wanted & ~equal).sum(axis=1, keepdims=True)
        wanted &= ~equal | (equal.cumsum(axis=1) <= spare)
    places = np.flatnonzero(wanted).reshape(len(numbers), size)
    places -= np.arange(len(numbers))[:, np.newaxis] * numbers.shape[1]
    return torch.from_numpy(places)
