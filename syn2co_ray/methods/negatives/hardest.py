"""The hardest entries of a long queue, exactly, without sorting all of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hardest_entries(similarity: Tensor, size: int) -> Tensor:
    """Places of the `size` largest values of each row of (n, K): (n, size) int64, ascending.

    In two stages. The row is cut into blocks of w entries (strided, so that the first stage is an elementwise
    maximum); only the `size` blocks with the largest maxima can hold one of the `size` largest entries, and
    among their size * w entries an ordinary top-k finds them. w = sqrt(K / size) makes both stages equally
    long: 16,384 values instead of 65,536 at SynCo's setting.

    They come sorted by place. A position is drawn uniformly, so order has no meaning; but sorted by
    similarity, or not at all, two entries that differ by a rounding error would swap places between 1 and N
    ranks, and another negative would be drawn.
    """
    rows, entries = similarity.shape
    width = math.isqrt(entries // size)
    if width < 2:
        return similarity.topk(size, dim=1, sorted=False).indices.sort(dim=1).values
    blocks = entries // width
    maxima = similarity[:, : width * blocks].unflatten(1, (width, blocks)).amax(dim=1)
    best = maxima.topk(size, dim=1, sorted=False).indices
    first_of_block = torch.arange(0, width * blocks, blocks, device=similarity.device)
    candidates = (best.unsqueeze(1) + first_of_block.unsqueeze(1)).flatten(1)
    if width * blocks < entries:
        rest = torch.arange(width * blocks, entries, device=similarity.device).expand(rows, -1)
        candidates = torch.cat([candidates, rest], dim=1)
    chosen = similarity.gather(1, candidates).topk(size, dim=1, sorted=False).indices
    return candidates.gather(1, chosen).sort(dim=1).values
