"""What every kind of synthesized negative is made from: the query and its hardest queue entries.

Kinds do not build their vectors. With s = (a q + b n) / z and a, b, z stop-gradient, the logit

    q.s = (a / z) q.sg(q) + (b / z) q.n

has the value of q.s and the gradient s. q.n is already in the similarity matrix (n, K), so scalars are
gathered from it and never C-wide vectors. z uses measured lengths, not the assumption that they are 1.

| symbol | meaning | shape |
|---|---|---|
| q | query, unit length, with gradient | (n, C) |
| Q | queue, no gradient | (K, C) |
| similarity | q Q^T, with gradient | (n, K) |
| hardest | indices of the H largest similarities of each query | (n, H) |
| members | positions in `hardest`, drawn uniformly with replacement | (n, count) |
| sg | stop-gradient | |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

_BLOCK_ELEMENTS = {"cpu": 2**18, "cuda": 2**25}
"""Size of a C-wide temporary: 1 MiB of float32 stays in a CPU's cache; a GPU wants few, large kernels."""


@dataclass(frozen=True)
class HardestPool:
    """Queries with their hardest queue entries; float32 or float64 throughout."""

    q: Tensor
    queue: Tensor
    similarity: Tensor
    hardest: Tensor

    @classmethod
    def of(cls, q: Tensor, queue: Tensor, similarity: Tensor, size: int) -> HardestPool:
        """Pool of the `size` most similar entries of each query.

        The indices are sorted by place in the queue. A position is drawn uniformly, so order has no
        meaning; but sorted by similarity, or not at all, two entries that differ by a rounding error
        would swap places between 1 and N ranks and another negative would be drawn.
        """
        hardest = similarity.detach().topk(size, dim=1, sorted=False).indices.sort(dim=1).values
        return cls(q, queue, similarity, hardest)

    @cached_property
    def q_q(self) -> Tensor:
        """q.sg(q), (n, 1): value |q|^2, gradient q."""
        return (self.q * self.q.detach()).sum(dim=1, keepdim=True)

    @cached_property
    def queue_squared(self) -> Tensor:
        """|n|^2 of every queue entry, (K,)."""
        return squared_length(self.queue.detach())

    def entries(self, members: Tensor) -> Tensor:
        """Positions in the pool (n, count) -> row numbers of the queue (n, count)."""
        return self.hardest.gather(1, members)

    def similarity_to(self, entries: Tensor) -> Tensor:
        """q.n of queue rows (n, count), with gradient."""
        return self.similarity.gather(1, entries)

    def squared_length_of(self, entries: Tensor) -> Tensor:
        """|n|^2 of queue rows (n, count)."""
        return self.queue_squared[entries]

    def combination(self, a: Tensor | float, b: Tensor | float, entries: Tensor) -> Tensor:
        """Logits q.s of s = (a q + b n) / |a q + b n|; a and b are numbers or (n, count), detached."""
        q_n, q_q = self.similarity_to(entries), self.q_q
        squared = a * a * q_q.detach() + b * b * self.squared_length_of(entries) + 2 * a * b * q_n.detach()
        scale = inverse_length(squared)
        return a * scale * q_q + b * scale * q_n


def draw_members(generator: Generator, rows: int, hardest: int, count: int) -> Tensor:
    """Positions in the pool, uniform with replacement: (rows, count) int64 in [0, hardest)."""
    return torch.randint(hardest, (rows, count), generator=generator, device=generator.device)


def draw_uniform(generator: Generator, rows: int, count: int, low: float, high: float) -> Tensor:
    """(rows, count) float32, uniform in [low, high)."""
    unit = torch.rand((rows, count), generator=generator, device=generator.device)
    return low + (high - low) * unit


def inverse_length(squared: Tensor) -> Tensor:
    """1 / z from z^2, detached.

    z^2 is a sum with cancellation, so below the rounding error of the terms (which are near 1) it is
    noise: the floor keeps the logit of a vector of length zero near zero.
    """
    return squared.detach().clamp_min(torch.finfo(squared.dtype).eps).rsqrt()


def squared_length(vectors: Tensor) -> Tensor:
    """|v|^2 of vectors (..., C) -> (...)."""
    return torch.linalg.vector_norm(vectors, dim=-1).square()


def _row_blocks(entries: Tensor, queue: Tensor) -> Iterator[slice]:
    """Slices of rows: bounds the C-wide memory of products that need no gradient."""
    elements_per_row = entries.shape[1] * queue.shape[1]
    rows = max(1, _BLOCK_ELEMENTS.get(queue.device.type, 2**18) // elements_per_row)
    for start in range(0, len(entries), rows):
        yield slice(start, start + rows)


@torch.no_grad()
def dots_between_entries(queue: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """n_i.n_j for queue rows (n, count) and (n, count) -> (n, count), without gradient."""
    blocks = [
        (F.embedding(first[rows], queue) * F.embedding(second[rows], queue)).sum(dim=2)
        for rows in _row_blocks(first, queue)
    ]
    return torch.cat(blocks)


@torch.no_grad()
def dots_with_rows(queue: Tensor, entries: Tensor, vectors: Tensor) -> Tensor:
    """n.v for queue rows (n, count) and one vector a row (n, C) -> (n, count), without gradient."""
    blocks = [
        torch.bmm(F.embedding(entries[rows], queue), vectors[rows].unsqueeze(2)).squeeze(2)
        for rows in _row_blocks(entries, queue)
    ]
    return torch.cat(blocks)
