"""Few-shot classification by class means: many small problems from one labelled set.

Prototypes (Snell et al., arXiv 1703.05175, section 2.3) on frozen features, which are centred and scaled to
length 1 (SimpleShot, arXiv 1911.04623, section 2.2; here the centre is the mean of the episode's images to
learn from, not of other classes): a query goes to the class whose mean it is nearest to. Episodes are drawn
from (seed, shots, number), on any machine alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.randomness import named_generator
from ..spec.errors import DataError
from ..spec.evaluation import FewShotSpec
from .knn import check_features


@dataclass(frozen=True)
class FewShotResult:
    """Accuracy over episodes."""

    top1_percent: float
    interval95_percent: float
    """Half the width of the 95 % interval of the mean over episodes (1.96 standard errors)."""


@torch.no_grad()
def few_shot(features: Tensor, labels: Tensor, spec: FewShotSpec, seed: int) -> dict[int, FewShotResult]:
    """Accuracy for each number of shots.

    Args:
        features: (M, F), any float dtype.
        labels: (M,) int64.
        spec: ways, shots, queries and episodes.
        seed: of the job.

    Raises:
        DataError: fewer classes with shots + queries images than ways, or features that are not finite.
    """
    check_features(features, where="data.eval")
    places = _places(labels)
    return {
        shots: _accuracy(
            [
                _episode(features, _drawn(places, spec, shots, seed, number), shots)
                for number in range(spec.episodes)
            ]
        )
        for shots in spec.shots
    }


def check_few_shot(labels: Tensor, spec: FewShotSpec) -> None:
    """Refuse a set, by its classes (M,) int64, that has too few images for any number of shots.

    Raises:
        DataError: fewer classes with shots + queries images than ways.
    """
    places = _places(labels)
    for shots in spec.shots:
        _able(places, spec, shots)


def _places(labels: Tensor) -> dict[int, np.ndarray]:
    return {int(label): torch.nonzero(labels == label).flatten().numpy() for label in labels.unique()}


def _drawn(
    places: dict[int, np.ndarray], spec: FewShotSpec, shots: int, seed: int, number: int
) -> np.ndarray:
    """Rows (ways, shots + queries) of an episode; images to learn from first."""
    able, needed = _able(places, spec, shots), shots + spec.queries
    generator = named_generator(seed, "few-shot", shots, number)
    chosen = generator.choice(len(able), spec.ways, replace=False)
    return np.stack([generator.choice(places[able[place]], needed, replace=False) for place in chosen])


def _able(places: dict[int, np.ndarray], spec: FewShotSpec, shots: int) -> list[int]:
    """Classes with enough images for an episode."""
    needed = shots + spec.queries
    able = sorted(label for label, rows in places.items() if len(rows) >= needed)
    if len(able) < spec.ways:
        raise DataError(
            "few_shot",
            f"{len(able)} classes of data.eval have {shots} shots + {spec.queries} queries",
            f"at least {spec.ways} (few_shot.ways)",
            "lower ways, shots or queries",
        )
    return able


def _episode(features: Tensor, rows: np.ndarray, shots: int) -> float:
    drawn = features[torch.from_numpy(rows)].double()
    centre = drawn[:, :shots].mean(dim=(0, 1))
    drawn = F.normalize(drawn - centre, dim=2)
    means = drawn[:, :shots].mean(dim=1)
    nearest = torch.cdist(drawn[:, shots:].flatten(0, 1), means).argmin(dim=1)
    queries = rows.shape[1] - shots
    return 100.0 * float((nearest == torch.arange(len(rows)).repeat_interleave(queries)).double().mean())


def _accuracy(percents: list[float]) -> FewShotResult:
    values = np.array(percents)
    return FewShotResult(float(values.mean()), float(1.96 * values.std(ddof=1) / math.sqrt(len(values))))
