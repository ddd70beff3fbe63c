"""The part of InfoNCE that is over negatives: queue and synthesized, with the gradient in closed form.

    L(q) = log sum_j exp(q.n_j / t),      dL/dq = 1/t sum_j p_j n_j,      p = softmax over all negatives

over the K entries of the queue and the synthesized s_j, which have no gradient of their own. As each s_j is a
sum of queue entries and q (pool.py), its softmax weight is added onto the weights of the entries it is made
of, and one product with the queue gives the whole gradient. Autograd keeps dL/dq, (n, C), and nothing else:
neither the similarity matrix nor its softmax nor any negative.

Rows are done in blocks, which bounds the memory, whatever the batch; draws belong to rows, so blocks change
nothing else. Products with the queue want many rows at once and noise wants few, so the similarities of a
block are gone through in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..draws import RowDraws
from .hardest import hardest_entries
from .pool import HardestPool, Synthesized

_SIMILARITY_ELEMENTS = {"cpu": 2**22, "cuda": 2**28}
"""Similarities of a block. On a CPU many rows share a reading of the queue and few take little memory; a GPU
wants few, large kernels."""
_NOISE_ELEMENTS = {"cpu": 2**21, "cuda": 2**28}
"""The same of the C-wide vectors of a part."""

Synthesize = Callable[[HardestPool, RowDraws], Mapping[str, Synthesized]]
"""(a block's pool, its draws) -> negatives of each kind, by name."""


@dataclass(frozen=True)
class Observed:
    """What telemetry compares the negatives of n queries with."""

    positive: Tensor
    """q.k, (n,)."""
    labels: Tensor | None = None
    """Class of each query, (n,) int64, -1 where unknown."""
    queue_labels: Tensor | None = None
    """Class of each queue entry, (K,) int64, -1 where unknown."""

    def rows(self, rows: slice) -> Observed:
        return Observed(
            self.positive[rows], None if self.labels is None else self.labels[rows], self.queue_labels
        )


@dataclass(frozen=True)
class Negatives:
    """All negatives of n queries."""

    log_sum_exp: Tensor
    """L(q), (n,), with gradient."""
    telemetry: dict[str, dict[str, Tensor]]
    """"queue" and each kind -> figure -> (n,), one number a query; empty when not asked for.

    | figure | meaning |
    |---|---|
    | logit, logit_max | mean and maximum of q.s |
    | harder | share of the negatives with a larger logit than the positive |
    | mass | share of the softmax over all negatives |
    | gradient | length of its part of dL/dq on the sphere, over the sum of these lengths of all blocks |
    | false_negatives | of the queue entries it is made of whose class is known, the share of the query's class; NaN where none is known |
    """  # noqa: E501


def log_sum_exp(
    q: Tensor,
    queue: tuple[Tensor, Tensor],
    temperature: float,
    draws: RowDraws,
    *,
    hardest: int = 0,
    synthesize: Synthesize | None = None,
    widest: int = 0,
    observed: Observed | None = None,
) -> Negatives:
    """Queries against the queue and the negatives that `synthesize` makes of its hardest entries.

    Args:
        q: queries, (n, C), float32 or float64, with gradient.
        queue: its entries (K, C) and their squared lengths (K,).
        temperature: > 0.
        draws: source of the draws, for these n rows.
        hardest: entries of the pool of a query, <= K.
        synthesize: makes the synthesized negatives; None: the queue alone.
        widest: C-wide vectors that `synthesize` builds for a row; sizes the blocks.
        observed: what telemetry needs; None: no telemetry.
    """
    done = []
    with torch.no_grad():
        for block in draws.parts(_rows_max(_SIMILARITY_ELEMENTS, q, len(queue[0]))):
            rows = _rows_within(block, draws)
            similarity = q[rows] @ queue[0].T
            parts = []
            for part in block.parts(_rows_max(_NOISE_ELEMENTS, q, widest * q.shape[1])):
                own = _rows_within(part, draws)
                found = _Part(q[own], queue, temperature, similarity[_rows_within(part, block)])
                if synthesize is not None:
                    found.synthesized = synthesize(found.pool(hardest), part)
                parts.append(found.finish(observed.rows(own) if observed else None))
                del found  # its vectors, before the next ones are drawn
            # The similarities have become weights by now.
            gradient = torch.cat([each.gradient for each in parts]).addmm_(similarity, queue[0])
            gradient.div_(torch.cat([each.total for each in parts]).unsqueeze(1) * temperature)
            done += [(gradient, parts)]
            del similarity  # before the next block's is made
    all_parts = [part for _, parts in done for part in parts]
    value, gradient = torch.cat([part.value for part in all_parts]), torch.cat([each for each, _ in done])
    telemetry = {
        name: {figure: torch.cat([part.telemetry[name][figure] for part in all_parts]) for figure in figures}
        for name, figures in all_parts[0].telemetry.items()
    }
    # The value, and an inner product whose value is 0 and whose gradient is the one found.
    return Negatives(value + ((q - q.detach()) * gradient).sum(dim=1), telemetry)


def _rows_max(elements: Mapping[str, int], q: Tensor, elements_per_row: int) -> int:
    return max(1, elements.get(q.device.type, elements["cpu"]) // max(elements_per_row, 1))


def _rows_within(part: RowDraws, whole: RowDraws) -> slice:
    """Which rows of `whole` a part of it is."""
    first = part.first_row - whole.first_row
    return slice(first, first + part.rows)


class _Done(NamedTuple):
    """A part's rows: L (n,), what sum_j weight_j n_j has beside the queue (n, C), all weights' sum (n,)."""

    value: Tensor
    gradient: Tensor
    total: Tensor
    telemetry: dict[str, dict[str, Tensor]]


class _Part:
    """A part of a block of rows; `finish` makes its similarities the weights of the queue's entries."""

    def __init__(
        self, q: Tensor, queue: tuple[Tensor, Tensor], temperature: float, similarity: Tensor
    ) -> None:
        self.q, self.queue, self.temperature, self.similarity = q, queue, temperature, similarity
        self.synthesized: Mapping[str, Synthesized] = {}

    def pool(self, hardest: int) -> HardestPool:
        return HardestPool(self.q, *self.queue, self.similarity, hardest_entries(self.similarity, hardest))

    def finish(self, observed: Observed | None) -> _Done:
        blocks = {"queue": self.similarity, **{name: s.logits for name, s in self.synthesized.items()}}
        figures = self._figures(blocks, observed) if observed else {}
        shift = torch.stack([logits.amax(dim=1) for logits in blocks.values()]).amax(dim=0).unsqueeze(1)
        # In place: the similarities are the largest tensor there is.
        weights = {name: logits.sub_(shift).div_(self.temperature).exp_() for name, logits in blocks.items()}
        sums = {name: weight.sum(dim=1) for name, weight in weights.items()}
        total = torch.stack(list(sums.values())).sum(dim=0)
        if observed:
            self._add_shares(figures, weights, sums, total)
        of_queue = weights["queue"]
        gradient = torch.zeros_like(self.q)
        for name, kind in self.synthesized.items():
            for places, coefficient in kind.entries:
                of_queue.scatter_add_(1, places, weights[name] * coefficient)
            _add_beside_queue(gradient, kind, weights[name], self.q)
        return _Done(shift.squeeze(1) / self.temperature + total.log(), gradient, total, figures)

    def _figures(self, blocks: Mapping[str, Tensor], observed: Observed) -> dict[str, dict[str, Tensor]]:
        positive, figures = observed.positive.unsqueeze(1), {}
        for name, logits in blocks.items():
            figures[name] = {
                "logit": logits.mean(dim=1),
                "logit_max": logits.amax(dim=1),
                "harder": _count(logits > positive).to(logits.dtype) / logits.shape[1],
            }
            if observed.labels is not None and observed.queue_labels is not None:
                labels = observed.queue_labels.unsqueeze(0)
                if name != "queue":
                    labels = torch.cat([labels[0, places] for places, _ in self.synthesized[name].entries], 1)
                known = (labels >= 0) & (observed.labels.unsqueeze(1) >= 0)
                same = known & (labels == observed.labels.unsqueeze(1))
                figures[name]["false_negatives"] = _count(same) / _count(known)
        return figures

    def _add_shares(
        self,
        figures: dict[str, dict[str, Tensor]],
        weights: Mapping[str, Tensor],
        sums: Mapping[str, Tensor],
        total: Tensor,
    ) -> None:
        lengths = {name: self._pull(name, weight) for name, weight in weights.items()}
        all_lengths = torch.stack(list(lengths.values())).sum(dim=0)
        for name, length in lengths.items():
            figures[name]["mass"] = sums[name] / total
            figures[name]["gradient"] = length / all_lengths.clamp_min(torch.finfo(length.dtype).tiny)

    def _pull(self, name: str, weight: Tensor) -> Tensor:
        """Length (n,) of sum_j weight_j s_j of one block, without its part along q (|q| stays 1)."""
        if name == "queue":
            pull = weight @ self.queue[0]
        else:
            kind, pull = self.synthesized[name], torch.zeros_like(self.q)
            for places, coefficient in kind.entries:
                scaled = weight * coefficient
                pull += F.embedding_bag(places, self.queue[0], mode="sum", per_sample_weights=scaled)
            _add_beside_queue(pull, kind, weight, self.q)
        pull -= (pull * self.q).sum(dim=1, keepdim=True) * self.q
        return torch.linalg.vector_norm(pull, dim=1)


def _count(chosen: Tensor) -> Tensor:
    """True entries of each row of (n, m); in 64 bits, torch's default, a CPU takes four times as long."""
    return chosen.sum(dim=1, dtype=torch.int32)


def _add_beside_queue(out: Tensor, kind: Synthesized, weight: Tensor, q: Tensor) -> None:
    """Add to `out` (n, C) what sum_j weight_j s_j has beside its queue entries."""
    if kind.of_query is not None:
        out.add_((weight * kind.of_query).sum(dim=1, keepdim=True) * q)
    if kind.of_sign is not None:
        out.add_((weight * kind.of_sign).sum(dim=1, keepdim=True) * q.sign())
    if kind.of_vectors is not None:
        vectors, coefficient = kind.of_vectors
        out.add_(torch.bmm((weight * coefficient).unsqueeze(1), vectors).squeeze(1))
