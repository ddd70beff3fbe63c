"""Points of a search's space: pure functions of the spec, so that a resumed search has the same ones."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .search import DimensionSpec, SearchSpec

Point = dict[str, Any]
"""Dotted key -> value; keys whose `when` does not hold are absent."""
Pick = Callable[[str, DimensionSpec], Any]
"""A value for a key."""
CORNERS_MAX = 128


def points_of(search: SearchSpec) -> list[Point]:
    """All points of a random or grid search, in order; none of optuna's, which depend on results."""
    if search.searcher == "grid":
        return list(_combinations(search.space, lambda dimension: dimension.values or ()))
    if search.searcher == "random":
        return [drawn_point(search, number) for number in range(search.trials or 0)]
    return []


def number_of_points(search: SearchSpec) -> int:
    return len(points_of(search)) if search.searcher == "grid" else search.trials or 0


def drawn_point(search: SearchSpec, number: int) -> Point:
    """The random point of this number; each key has random numbers of its own, whatever the other keys."""
    return point_by(search.space, lambda key, dimension: _drawn(dimension, f"{search.seed} {number} {key}"))


def corner_points(space: Mapping[str, DimensionSpec]) -> list[Point]:
    """Combinations of finite values and ends of ranges, at most `CORNERS_MAX`, each value in one of them."""
    return list(itertools.islice(_combinations(space, ends), CORNERS_MAX)) + _one_changed(space)


def point_by(space: Mapping[str, DimensionSpec], pick: Pick) -> Point:
    """A point with `pick`'s value at every key whose condition holds."""
    point: Point = {}
    for key in in_order(space):
        if holds(space[key], point):
            point[key] = pick(key, space[key])
    return point


def in_order(space: Mapping[str, DimensionSpec]) -> list[str]:
    """Keys, each after those its condition names (circles are refused by the rules)."""
    ordered: list[str] = []
    left = list(space)
    while left:
        ready = [key for key in left if all(other not in left for other in space[key].when)]
        if not ready:
            return [*ordered, *left]
        ordered += ready
        left = [key for key in left if key not in ready]
    return ordered


def holds(dimension: DimensionSpec, point: Point) -> bool:
    """Whether a key varies at a point whose earlier keys are known."""
    return all(
        key in point and point[key] in (wanted if isinstance(wanted, list) else [wanted])
        for key, wanted in dimension.when.items()
    )


def ends(dimension: DimensionSpec) -> tuple[Any, ...]:
    """All values of a finite key, both ends of a range."""
    if dimension.values is not None:
        return dimension.values
    if dimension.quniform is not None:
        low, high, _ = dimension.quniform
        return low, quantised(dimension, high)
    found = dimension.uniform or dimension.loguniform or dimension.randint
    return tuple(found or ())


def quantised(dimension: DimensionSpec, value: float) -> float:
    """The value of a quniform key at or below this one; whole when its three numbers are."""
    assert dimension.quniform is not None
    low, _, step = dimension.quniform
    # The small part keeps 0.3 in steps of 0.1; rounding hides what binary fractions add.
    found = round(low + step * math.floor((value - low) / step + 1e-9), 12)
    return int(found) if all(part == int(part) for part in (low, step)) else found


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


def _drawn(dimension: DimensionSpec, seed: str) -> Any:
    uniform = random.Random(seed).random()
    if dimension.values is not None:
        return dimension.values[int(uniform * len(dimension.values))]
    if dimension.uniform is not None:
        low, high = dimension.uniform
        return low + uniform * (high - low)
    if dimension.loguniform is not None:
        low, high = dimension.loguniform
        return min(high, max(low, math.exp(math.log(low) + uniform * math.log(high / low))))
    if dimension.quniform is not None:
        low, high, step = dimension.quniform
        steps = math.floor((high - low) / step + 1e-9) + 1
        return quantised(dimension, low + step * int(uniform * steps))
    assert dimension.randint is not None
    first, last = dimension.randint
    return first + int(uniform * (last - first + 1))


def _combinations(
    space: Mapping[str, DimensionSpec], values: Callable[[DimensionSpec], tuple[Any, ...]]
) -> Iterator[Point]:
    """Every combination; a key whose condition does not hold is absent, and not varied."""

    def extended(point: Point, keys: list[str]) -> Iterator[Point]:
        if not keys:
            yield point
            return
        key, *others = keys
        if not holds(space[key], point):
            yield from extended(point, others)
            return
        for value in values(space[key]):
            yield from extended({**point, key: value}, others)

    yield from extended({}, in_order(space))


def _one_changed(space: Mapping[str, DimensionSpec]) -> list[Point]:
    """For every value of every key, a point that has it, with first values elsewhere."""
    points = []
    for changed in space:
        needed = _needed_by(space, changed)
        for value in ends(space[changed]):
            fixed = {**needed, changed: value}
            points.append(point_by(space, _fixed(fixed)))
    return points


def _fixed(values: Point) -> Pick:
    return lambda key, dimension: values.get(key, ends(dimension)[0])


def _needed_by(space: Mapping[str, DimensionSpec], key: str) -> Point:
    """Values of other keys under which this one varies."""
    needed: Point = {}
    for other, wanted in space[key].when.items():
        needed |= _needed_by(space, other) | {other: wanted[0] if isinstance(wanted, list) else wanted}
    return needed
