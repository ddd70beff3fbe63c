"""Retrieval on frozen features: does a search by cosine similarity bring up images of the same class?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec.errors import DataError
from .knn import check_features

_QUERIES_PER_BLOCK = 512


@dataclass(frozen=True)
class RetrievalResult:
    """What a search among the others brings up."""

    map_percent: float
    """Mean over queries of the mean over their relevant images of the precision at that image's place."""
    queries: int
    """Images with at least one other of their label; the rest cannot be found and are not asked for."""


@torch.no_grad()
def leave_one_out_map(features: Tensor, labels: Tensor) -> RetrievalResult:
    """Each image is a query and all others are ranked by cosine similarity, equal ones in their order.

    Args:
        features: (M, F), any float dtype.
        labels: (M,) int64; equal labels are relevant to each other.

    Raises:
        DataError: features that are not finite, or no two images of one label.
    """
    check_features(features, where="data.eval")
    unit = F.normalize(features.double(), dim=1)
    precisions: list[Tensor] = []
    for start in range(0, len(unit), _QUERIES_PER_BLOCK):
        rows = torch.arange(start, min(start + _QUERIES_PER_BLOCK, len(unit)))
        similarities = unit[rows] @ unit.T
        similarities[torch.arange(len(rows)), rows] = -torch.inf
        order = similarities.argsort(dim=1, descending=True, stable=True)[:, :-1]
        relevant = labels[order] == labels[rows, None]
        precisions.append(_average_precision(relevant[relevant.any(dim=1)]))
    found = torch.cat(precisions)
    if not len(found):
        raise DataError(
            "data.eval", "no two images of one label", "at least two of a label", "leave retrieval out"
        )
    return RetrievalResult(100.0 * float(found.mean()), len(found))


def _average_precision(relevant: Tensor) -> Tensor:
    """(m, n) bool in order of rank, some in each row -> (m,) float64."""
    hits = relevant.cumsum(dim=1).double()
    places = torch.arange(1, relevant.shape[1] + 1, dtype=torch.float64)
    return (hits / places * relevant).sum(dim=1) / relevant.sum(dim=1)


REVISITED = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""Setup -> which lists of the ground truth are relevant, and which are passed over."""


def revisited_map(
    ranked: Sequence[Sequence[int]], truths: Sequence[Mapping[str, Sequence[int]]]
) -> dict[str, float | None]:
    """mAP in percent of ROxford5k and RParis6k, setups easy, medium and hard (arXiv 1803.11285).

    The area under each query's precision-recall line by trapezoids, junk images taken out of the ranking;
    a query without a relevant image in a setup is left out of its mean.

    Args:
        ranked: for each query the database images, best first, as numbers from 0.
        truths: for each query the lists `easy`, `hard` and `junk` of the ground-truth file.

    Returns:
        Setup -> mAP; None where no query has a relevant image.
    """
    found: dict[str, float | None] = {}
    for setup, (positive, ignored) in REVISITED.items():
        values = []
        for order, truth in zip(ranked, truths, strict=True):
            relevant = {int(number) for name in positive for number in truth[name]}
            junk = {int(number) for name in ignored for number in truth[name]}
            if relevant:
                kept = [number for number in order if number not in junk]
                places = [place for place, number in enumerate(kept) if number in relevant]
                values.append(_trapezoids(places, len(relevant)))
        found[setup] = 100.0 * sum(values) / len(values) if values else None
    return found


def _trapezoids(places: Sequence[int], relevant: int) -> float:
    """Area under precision over recall; `places` of the relevant images from 0, in order."""
    area = 0.0
    for hits, place in enumerate(places):
        before = hits / place if place else 1.0
        area += (before + (hits + 1) / (place + 1)) / 2
    return area / relevant
