"""Weighted k-nearest neighbours on frozen features (DINO, arXiv 2104.14294, section 4.2 and its code).

A query takes the votes of its k most similar bank features; a neighbour of similarity s (cosine) votes
for its label with weight exp(s / temperature). The bank streams through a running top k, so memory
depends on the queries, k and the chunk, never on the size of the bank.

The figure must not depend on chunk size, on the number of ranks or on the device, yet a matrix product
in floating point does (its order of summation changes with the shape). So unit vectors are rounded to
multiples of 2^-26, as fine as float32, and multiplied in float64: every product is a multiple of 2^-52
and every partial sum is below 2 (Cauchy-Schwarz), hence exact in any order. Equal similarities are then
truly equal, and the lower bank index wins. (The norm is a plain float64 sum; the rounding absorbs its last
bits except for a coordinate that lies within about 1e-16 of the middle between two multiples.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from syn2co_ray.spec.errors import DataError

BANK_ROWS_PER_CHUNK = 8192
_QUERIES_PER_BLOCK = 1024
_GRID = 2.0**26
_NO_INDEX = torch.iinfo(torch.int64).max


class Neighbours(NamedTuple):
    """The nearest bank features of M queries, best first; equal similarities by lower bank index."""

    similarities: Tensor
    """Cosines, (M, k), float64."""
    labels: Tensor
    """Labels of these bank features, (M, k), int64."""
    indices: Tensor
    """Their places in the whole bank, (M, k), int64; they decide ties, also between ranks."""


class StreamingKnn:
    """Running top k_max of a bank that comes in pieces.

    Args:
        queries: features to classify, (M, F), any float dtype; normalised here. Its device does the work.
        k_max: how many neighbours to keep for each query.
        chunk: bank rows compared at once; the largest intermediate has min(M, 1024) x chunk elements.

    Raises:
        DataError: there are no queries, or a feature is not finite.
    """

    def __init__(self, queries: Tensor, k_max: int, chunk: int = BANK_ROWS_PER_CHUNK) -> None:
        if k_max < 1 or chunk < 1:
            raise ValueError(f"k_max and chunk must be at least 1, got {k_max} and {chunk}")
        check_features(queries, where="data.eval")
        self._queries = torch.cat([_unit_on_grid(queries[rows]) for rows in _blocks(len(queries))])
        self._k_max = k_max
        self._chunk = chunk
        self._rows_seen = 0
        shape, device = (len(queries), k_max), queries.device
        self._best = Neighbours(
            torch.full(shape, -torch.inf, dtype=torch.float64, device=device),
            torch.full(shape, -1, dtype=torch.int64, device=device),
            torch.full(shape, _NO_INDEX, dtype=torch.int64, device=device),
        )

    @torch.no_grad()
    def add(self, bank_features: Tensor, bank_labels: Tensor, bank_indices: Tensor | None = None) -> None:
        """Compares a piece of the bank with all queries and keeps the nearest.

        Args:
            bank_features: (n, F), any float dtype, any device.
            bank_labels: (n,) int64.
            bank_indices: places of these rows in the whole bank, (n,) int64, each given once over all
                pieces and ranks; continues after the last piece when left out.

        Raises:
            DataError: a feature is not finite, or the widths of bank and queries differ.
        """
        if len(bank_features) == 0:
            return
        check_features(bank_features, where="data.eval_bank", width=self._queries.shape[1])
        if bank_indices is None:
            bank_indices = torch.arange(self._rows_seen, self._rows_seen + len(bank_features))
        self._rows_seen += len(bank_features)
        device = self._queries.device
        for rows in _blocks(len(bank_features), self._chunk):
            indices = bank_indices[rows].to(device)
            by_index = indices.argsort()
            features = _unit_on_grid(bank_features[rows].to(device))[by_index]
            labels = bank_labels[rows].to(device)[by_index]
            self._add_chunk(features, labels, indices[by_index])

    def _add_chunk(self, features: Tensor, labels: Tensor, indices: Tensor) -> None:
        for rows in _blocks(len(self._queries)):
            similarities = self._queries[rows] @ features.T
            columns = _top_columns(similarities, min(self._k_max, len(features)))
            found = Neighbours(similarities.gather(1, columns), labels[columns], indices[columns])
            self._keep_best(rows, found)

    @torch.no_grad()
    def merge(self, other: Neighbours) -> None:
        """Takes in what another rank found for the same queries in its own part of the bank."""
        device = self._queries.device
        for rows in _blocks(len(self._queries)):
            self._keep_best(rows, Neighbours(*(part[rows].to(device) for part in other)))

    def _keep_best(self, rows: slice, found: Neighbours) -> None:
        kept = (part[rows] for part in self._best)
        both = Neighbours(*(torch.cat(parts, dim=1) for parts in zip(kept, found, strict=True)))
        # Two stable sorts, the later one first in rank: by similarity, then by bank index.
        by_index = both.indices.argsort(dim=1, stable=True)
        order = both.similarities.gather(1, by_index).argsort(dim=1, descending=True, stable=True)
        columns = by_index.gather(1, order[:, : self._k_max])
        for kept_part, part in zip(self._best, both, strict=True):
            kept_part[rows] = part.gather(1, columns)

    def neighbours(self) -> Neighbours:
        """The nearest so far; k is k_max, or the number of bank rows where that is smaller.

        Raises:
            DataError: no bank feature was added or merged.
        """
        width = int((self._best.indices[0] != _NO_INDEX).sum())
        if width == 0:
            raise DataError(
                "data.eval_bank", "no labelled image to learn from", "at least one", "name a bank with images"
            )
        return Neighbours(*(part[:, :width].clone() for part in self._best))


@torch.no_grad()
def vote(similarities: Tensor, labels: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
    """Class with the largest sum of exp(similarity / temperature) over the k nearest neighbours.

    Args:
        similarities: cosines, best first, (M, width).
        labels: labels of the neighbours in [0, num_classes), (M, width), int64.
        num_classes: number of classes.
        k: neighbours that vote; all of them where width is smaller.
        temperature: the smaller, the more the nearest count; > 0.

    Returns:
        Predicted classes, (M,), int64; the lower class where sums are equal.

    Raises:
        DataError: a label is outside [0, num_classes).
    """
    check_labels(labels, num_classes, where="data.eval_bank")
    predicted = []
    for rows in _blocks(len(similarities)):
        nearest = similarities[rows, :k].double()
        # Relative to the best neighbour: the same winner, and no overflow at small temperatures.
        weights = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(weights), num_classes)
        # One neighbour at a time: no two additions meet in one cell, so CUDA sums in this order too.
        for rank in range(weights.shape[1]):
            votes.scatter_add_(1, labels[rows, rank : rank + 1], weights[:, rank : rank + 1])
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)


def knn_top1(
    neighbours: Neighbours, query_labels: Tensor, num_classes: int, ks: Sequence[int], temperature: float
) -> dict[int, float]:
    """Top-1 accuracy in percent for each k, under the k asked for.

    A k larger than the bank lets the whole bank vote. The neighbours must be searched with a k_max of at
    least max(ks), or the larger ks would silently mean k_max.

    Raises:
        DataError: a label is outside [0, num_classes).
    """
    check_labels(query_labels, num_classes, where="data.eval")
    similarities, labels, _ = neighbours
    return {
        k: top1_percent(vote(similarities, labels, num_classes, k, temperature), query_labels) for k in ks
    }


def top1_percent(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal classes in percent; predicted and labels are (M,) int64 on any devices."""
    return 100.0 * int((predicted.cpu() == labels.cpu()).sum()) / len(labels)


def check_features(features: Tensor, where: str, width: int | None = None) -> None:
    """Refuses features that no protocol can use: none, of another width, or not finite.

    Args:
        features: (n, F).
        where: dotted key of the data they come from, for the message.
        width: the F they must have; any when None.

    Raises:
        DataError: as above.
    """
    if features.ndim != 2 or len(features) == 0:
        raise DataError(
            where, f"features of shape {tuple(features.shape)}", "(images, features)", "name labelled images"
        )
    if width is not None and features.shape[1] != width:
        raise DataError(
            where, f"{features.shape[1]} features per image", str(width), "use one encoder for bank and eval"
        )
    bad = int((~features.isfinite().all(dim=1)).sum())
    if bad:
        raise DataError(
            where,
            f"{bad} of {len(features)} images have features that are not finite",
            "finite numbers",
            "the encoder has diverged: evaluate an earlier checkpoint",
        )


def check_labels(labels: Tensor, num_classes: int, where: str) -> None:
    """Refuses labels outside [0, num_classes), such as -1 for an image without one.

    Raises:
        DataError: naming the smallest and the largest label.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            where, f"labels from {low} to {high}", f"0 to {num_classes - 1}", "give every image its class"
        )


def _blocks(rows: int, size: int = _QUERIES_PER_BLOCK) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, rows, size))


def _unit_on_grid(features: Tensor) -> Tensor:
    """Unit vectors in float64 whose coordinates are multiples of 2^-26 (see the module docstring)."""
    unit = torch.nn.functional.normalize(features.detach().double(), dim=1)
    return (unit * _GRID).round() / _GRID


def _top_columns(similarities: Tensor, k: int) -> Tensor:
    """Columns of the k largest entries of each row, best first, equal ones by lower column: (m, k).

    torch.topk leaves open which of several equal entries it takes: where more than k entries reach the
    k-th value, the lower columns are picked here.
    """
    values, columns = similarities.topk(k, dim=1)
    threshold = values[:, -1:]
    reached = similarities >= threshold
    if int(reached.sum()) > columns.numel():
        tied = similarities == threshold
        room = k - (reached & ~tied).sum(dim=1, keepdim=True)
        taken = reached & (~tied | (tied.cumsum(dim=1) <= room))
        columns = taken.nonzero()[:, 1].view_as(columns)
    columns = columns.sort(dim=1).values
    order = similarities.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)
