"""Means over an epoch of what its steps measure, for those who compare runs under way."""

from __future__ import annotations

import math
from collections.abc import Mapping

MEASURED_NOW_AND_THEN = {"embedding/rankme": "rankme"}
"""Statistic of some steps -> its name here."""


class EpochMeans:
    """Counts the steps of the present epoch; goes into checkpoints, so that a resumed epoch is whole."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, loss: float, stats: Mapping[str, float]) -> None:
        """A step; what is not finite does not count."""
        named = {"loss": loss} | {
            name: stats[key] for key, name in MEASURED_NOW_AND_THEN.items() if key in stats
        }
        for name, value in named.items():
            if math.isfinite(value):
                total, count = self.sums.get(name, (0.0, 0))
                self.sums[name] = total + value, count + 1

    def taken(self) -> dict[str, float]:
        """Mean by name of the epoch that has ended; the next one begins."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means

    def state(self) -> dict[str, list[float]]:
        """Plain values for a checkpoint."""
        return {name: [total, count] for name, (total, count) in self.sums.items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Go on where `state` was taken."""
        self.sums = {name: (total, int(count)) for name, (total, count) in state.items()}
