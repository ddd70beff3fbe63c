"""Other values near good ones: how population-based training explores.

The published rule (Jaderberg et al. 2017, arXiv 1711.09846): each value is drawn anew, or changed by a
factor; here kept within its limits, and of a finite key the neighbour is taken, as Ray Tune does. Tune's own
function is private, draws from the process's random numbers and knows no limits, so it is not used: values
here are a function of the label alone.
"""

from __future__ import annotations

import math
import random
from typing import Any

from ..spec.points import Point, drawn_value, point_by, quantised
from ..spec.search import DimensionSpec, PopulationSpec, SearchSpec


def mutated(search: SearchSpec, rule: PopulationSpec, point: Point, label: str) -> Point:
    """The point with every value changed; conditional keys come and go with what they depend on."""

    def changed(key: str, dimension: DimensionSpec) -> Any:
        draws = random.Random(f"{label} {key}")
        if draws.random() < rule.resample_probability or key not in point:
            return drawn_value(dimension, f"{label} {key} anew")
        up = draws.random() < 0.5
        return moved(dimension, point[key], rule.factors[up], up)

    return point_by(search.space, changed)


def moved(dimension: DimensionSpec, value: Any, factor: float, up: bool) -> Any:
    """A number times the factor, whole steps at least one; a finite value's neighbour; within the limits."""
    if dimension.values is not None:
        place = list(dimension.values).index(value) + (1 if up else -1)
        return dimension.values[min(max(place, 0), len(dimension.values) - 1)]
    if dimension.quniform is not None:
        low, high, step = dimension.quniform
        last = math.floor((high - low) / step + 1e-9)
        steps = _whole((value - low) / step, (value * factor - low) / step, up)
        return quantised(dimension, low + step * min(max(steps, 0), last))
    if dimension.randint is not None:
        first, last = dimension.randint
        return min(max(_whole(value, value * factor, up), first), last)
    limits = dimension.uniform or dimension.loguniform
    assert limits is not None
    return min(max(value * factor, limits[0]), limits[1])


def _whole(now: float, wanted: float, up: bool) -> int:
    """The whole number nearest to the wanted one, but not the one that is there."""
    return round(wanted) if round(wanted) != round(now) else round(now) + (1 if up else -1)
