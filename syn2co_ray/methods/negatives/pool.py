"""What every kind of synthesized negative is made from, and the form in which it is handed on.

Kinds do not build their vectors. A negative is a sum of things that are there already, and detached:

    s = x q + sum_i w_i n_i + y sign(q) + v e
    q.s = x |q|^2 + sum_i w_i q.n_i + y |q|_1 + v q.e,      d(q.s)/dq = s

q.n is in the similarity matrix (n, K), so a kind gathers numbers, never C-wide vectors, for its logits; and
the loss needs only sums of s, weighted by the softmax, for its gradient (fused.py). Lengths are
measured, not assumed to be 1.

| symbol | meaning | shape |
|---|---|---|
| q | queries of a block of rows | (n, C) |
| Q | queue | (K, C) |
| similarity | q Q^T | (n, K) |
| hardest | places in the queue of the H largest similarities of each query | (n, H) |
| members | positions in `hardest`, drawn uniformly with replacement | (n, count) |
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

_PAIRS_ELEMENTS = 2**25
"""Size of a C-wide temporary on a GPU, which wants few, large kernels."""
# What is used of it here, entries of a product, is as old as the warning.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)


@dataclass(frozen=True)
class Synthesized:
    """Negatives of one kind for each query, unit length, as sums that are never built; no gradient."""

    logits: Tensor
    """q.s before temperature, (n, count)."""
    entries: tuple[tuple[Tensor, Tensor], ...]
    """Terms w n: places in the queue and weights, each (n, count)."""
    of_query: Tensor | None = None
    """x, (n, count)."""
    of_sign: Tensor | None = None
    """y, (n, count)."""
    of_vectors: tuple[Tensor, Tensor] | None = None
    """A term v e for vectors that are in no sum above: e (n, count, C) and v (n, count)."""


@dataclass(frozen=True)
class HardestPool:
    """A block of queries with their hardest queue entries; float32 or float64 throughout, no gradient."""

    q: Tensor
    queue: Tensor
    queue_squared: Tensor
    """|n|^2 of every queue entry, (K,)."""
    similarity: Tensor
    hardest: Tensor

    @cached_property
    def q_squared(self) -> Tensor:
        """|q|^2, (n, 1)."""
        return self.q.square().sum(dim=1, keepdim=True)

    @cached_property
    def sign(self) -> Tensor:
        """sign(q), (n, C)."""
        return self.q.sign()

    def places(self, members: Tensor) -> Tensor:
        """Positions in the pool (n, count) -> places in the queue (n, count)."""
        return self.hardest.gather(1, members)

    def similarity_to(self, places: Tensor) -> Tensor:
        """q.n of places in the queue (n, count)."""
        return self.similarity.gather(1, places)

    def squared_length_of(self, places: Tensor) -> Tensor:
        """|n|^2 of places in the queue (n, count)."""
        return self.queue_squared.index_select(0, places.flatten()).view_as(places)

    def combination(self, a: Tensor | float, b: Tensor | float, places: Tensor) -> Synthesized:
        """s = (a q + b n) / |a q + b n|; a and b are numbers or (n, count)."""
        q_n = self.similarity_to(places)
        squared = a * a * self.q_squared + b * b * self.squared_length_of(places) + 2 * a * b * q_n
        scale = inverse_length(squared)
        x, w = a * scale, b * scale
        return Synthesized(x * self.q_squared + w * q_n, ((places, w),), of_query=x)


def inverse_length(squared: Tensor) -> Tensor:
    """1 / z from z^2, and 0 for a vector whose length is rounding error.

    z^2 is a sum with cancellation, so below the error of its terms (which are near 1) it is noise. A vector
    of length zero has no direction: its logit is 0, and it pulls nowhere.
    """
    noise = 16 * torch.finfo(squared.dtype).eps
    return squared.clamp_min(noise).rsqrt().masked_fill_(squared < noise, 0.0)


def dots_with_rows(queue: Tensor, places: Tensor, vectors: Tensor) -> Tensor:
    """n.v for places in the queue (n, count), one vector a row (n, C) -> (n, count)."""
    rows = torch.arange(len(places), device=places.device).repeat_interleave(places.shape[1])
    return _dots(vectors, rows, queue, places.flatten()).view_as(places)


def dots_with_vectors(queue: Tensor, places: Tensor, vectors: Tensor) -> Tensor:
    """n.v for places in the queue (n, count), each with a vector of its own (n, count, C) -> (n, count).

    Or q.v, for places in the queries.
    """
    rows = torch.arange(places.numel(), device=places.device)
    return _dots(vectors.flatten(0, 1), rows, queue, places.flatten()).view_as(places)


def dots_between_entries(queue: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """n_i.n_j for places (n, count) and (n, count) -> (n, count)."""
    rows, order = first.flatten().sort()
    dots = _dots(queue, rows, queue, second.flatten()[order])
    return torch.empty_like(dots).scatter_(0, order, dots).view_as(first)


def _dots(vectors: Tensor, rows: Tensor, queue: Tensor, places: Tensor) -> Tensor:
    """vectors[rows] . queue[places]: (m, C), (p,) ascending, (K, C), (p,) -> (p,)."""
    on_cpu = queue.device.type == "cpu"
    return (_sampled_dots if on_cpu else _gathered_dots)(vectors, rows, queue, places)


def _gathered_dots(vectors: Tensor, rows: Tensor, queue: Tensor, places: Tensor) -> Tensor:
    """`_dots` by copies of both sides, (p, C), in blocks: what a GPU does fast."""
    at_once = max(1, _PAIRS_ELEMENTS // queue.shape[1])
    blocks = [
        (F.embedding(some, vectors) * F.embedding(others, queue)).sum(dim=1)
        for some, others in zip(rows.split(at_once), places.split(at_once), strict=True)
    ]
    return torch.cat(blocks)


@torch.compiler.disable
def _sampled_dots(vectors: Tensor, rows: Tensor, queue: Tensor, places: Tensor) -> Tensor:
    """`_dots` as a sparse product (m, K) that has just these p entries: nothing C-wide is copied.

    An entry that is wanted twice is in it twice, which CSR does not allow and this product does not mind.
    """
    if len(places) >= len(vectors) * len(queue):
        return (vectors @ queue.T)[rows, places]
    ends = torch.bincount(rows, minlength=len(vectors)).cumsum(0)
    starts, size = torch.cat([ends.new_zeros(1), ends]), (len(vectors), len(queue))
    wanted = torch.sparse_csr_tensor(
        starts, places, vectors.new_zeros(len(places)), size, check_invariants=False
    )
    # The copy is no view of a sparse matrix, which torch.compile does not take.
    return torch.sparse.sampled_addmm(wanted, vectors, queue.T, beta=0.0).values().clone()
