"""Is one point better than another, or is it noise? A paired bootstrap over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

import numpy as np

RESAMPLES, CONFIDENCE = 20_000, 0.95
SEEDS_MIN = 5
"""With fewer, resampling what is there says too little of what is not: two seeds that agree by chance would
always look like a difference."""


@dataclass(frozen=True)
class Comparison:
    """B against A over the seeds that both have.

    Attributes:
        seeds: those seeds.
        mean_a, mean_b: metric.
        difference: mean of B - A, seed by seed.
        low, high: 95 % interval of that mean, percentiles of its bootstrap.
    """

    seeds: tuple[int, ...]
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """In words: B is above or below A, noise, or too few seeds."""
        if len(self.seeds) < SEEDS_MIN:
            return f"not known: {len(self.seeds)} seeds, {SEEDS_MIN} or more are needed to tell from noise"
        if self.low <= 0 <= self.high:
            return "noise: the interval holds 0"
        return "B is above A" if self.difference > 0 else "B is below A"


def compare(values_a: Mapping[int, float], values_b: Mapping[int, float]) -> Comparison:
    """Compare metrics by seed; only seeds that both have count.

    Raises:
        ValueError: they have no seed in common.
    """
    seeds = tuple(sorted(values_a.keys() & values_b.keys()))
    if not seeds:
        raise ValueError("no seed in common")
    differences = np.array([values_b[seed] - values_a[seed] for seed in seeds])
    draws = np.random.default_rng(0).integers(len(seeds), size=(RESAMPLES, len(seeds)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(differences[draws].mean(axis=1), [tail, 100 - tail])
    return Comparison(
        seeds,
        mean(values_a[seed] for seed in seeds),
        mean(values_b[seed] for seed in seeds),
        float(differences.mean()),
        float(low),
        float(high),
    )
