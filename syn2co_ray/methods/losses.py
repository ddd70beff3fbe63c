"""InfoNCE over the positive, the queue and the synthesized negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half types to float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit(x: Tensor) -> Tensor:
    """Rows (n, C) divided by their length, at least float32; the zero row stays zero."""
    return F.normalize(at_least_float32(x), dim=1)


def info_nce(positive: Tensor, negatives: Sequence[Tensor], temperature: float) -> Tensor:
    """Loss of each query (van den Oord et al., arXiv 1807.03748, eq. 4).

        -log softmax([q.k, q.Q, q.S] / temperature)[0]

    Args:
        positive: q.k, (n,).
        negatives: blocks of q.Q or q.S, each (n, M_i).
        temperature: > 0.

    Returns:
        (n,), at least float32, also under autocast.
    """
    with torch.autocast(positive.device.type, enabled=False):
        logits = torch.cat([positive.unsqueeze(1), *negatives], dim=1)
        logits = at_least_float32(logits) / temperature
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64), reduction="none")


@torch.no_grad()
def softmax_mass(loss: Tensor, positive: Tensor, block: Tensor, temperature: float) -> Tensor:
    """Share of the softmax that falls on a block of negatives, mean over queries: scalar in [0, 1].

    Args:
        loss: `info_nce` of the queries, (n,).
        positive: q.k, (n,).
        block: logits of the block before temperature, (n, M).
        temperature: the one of the loss.
    """
    log_normaliser = loss + at_least_float32(positive) / temperature
    return (at_least_float32(block) / temperature - log_normaliser.unsqueeze(1)).exp().sum(1).mean()
