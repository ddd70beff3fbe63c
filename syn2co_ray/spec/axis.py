"""A key of a search's space as an axis from 0 to 1: for figures, and for what looks at distances."""

from __future__ import annotations

import math
from typing import Any

from .points import ends
from .search import DimensionSpec


def unit_position(dimension: DimensionSpec, value: Any) -> float:
    """Where a value lies on its key's axis: 0 to 1, by its logarithm where that is drawn, by its place in
    the list of a finite key (numbers in their order); NaN of a value that the key has no longer."""
    if dimension.values is not None:
        values = in_their_order(dimension.values)
        if value not in values:
            return math.nan
        return values.index(value) / (len(values) - 1) if len(values) > 1 else 0.5
    low, high = ends(dimension)
    if dimension.loguniform is not None:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def in_their_order(values: tuple[Any, ...]) -> list[Any]:
    """Numbers sorted, anything else as given."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return sorted(values) if numbers else list(values)
