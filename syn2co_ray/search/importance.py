"""Which keys decide the metric: fANOVA (Hutter et al., 2014) as Optuna has it, over the finished points.

A random forest is fitted to the metric over the space; a key's importance is the part of the forest's
variance that the key explains alone. A key with `when` is looked at over the points at which it varies, and
what it explains there is set against the spread of all points, so that the shares of all keys can be
compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import mean, pvariance
from typing import Any

from ..spec.points import Point, in_order, unit_position
from ..spec.search import DimensionSpec, SearchSpec
from .records import Record

POINTS_MIN = 10
"""With fewer finished points a forest says more about itself than about the space."""
_TREES = 64


def finished_points(records: Iterable[Record]) -> list[tuple[Point, float]]:
    """Each point that has a finished run, and its mean metric: values of stopped runs are of other epochs."""
    values: dict[int, list[float]] = {}
    points: dict[int, Point] = {}
    for record in records:
        if record.status == "finished" and record.value is not None and math.isfinite(record.value):
            values.setdefault(record.point_number, []).append(record.value)
            points[record.point_number] = record.point
    return [(points[number], mean(found)) for number, found in sorted(values.items())]


def importances(search: SearchSpec, finished: list[tuple[Point, float]]) -> dict[str, float]:
    """Key -> part of the metric's variance that it explains, 0 to 1.

    Empty with fewer than `POINTS_MIN` finished points, or where all have the same metric. A key that varies
    at fewer points is left out.
    """
    spread = pvariance([value for _, value in finished]) if finished else 0.0
    if len(finished) < POINTS_MIN or spread == 0.0:
        return {}
    shares: dict[str, float] = {}
    everywhere = [key for key in in_order(search.space) if all(key in point for point, _ in finished)]
    for key in in_order(search.space):
        here = [(point, value) for point, value in finished if key in point]
        if len(here) < POINTS_MIN:
            continue
        beside = list(dict.fromkeys([*everywhere, key]))
        explained = _explained(search.space, beside, here).get(key, 0.0)
        part = len(here) * pvariance([value for _, value in here]) / (len(finished) * spread)
        shares[key] = explained * part
    return shares


def _explained(
    space: Mapping[str, DimensionSpec], keys: list[str], points: list[tuple[Point, float]]
) -> dict[str, float]:
    """Optuna's fANOVA over points that all have these keys; a key with one value there explains nothing."""
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    if len({value for _, value in points}) == 1:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for point, value in points:
        study.add_trial(
            optuna.trial.create_trial(
                value=value,
                params={key: _parameter(space[key], point[key]) for key in keys},
                distributions={key: _distribution(space[key]) for key in keys},
            )
        )
    evaluator = FanovaImportanceEvaluator(n_trees=_TREES, seed=0)
    return evaluator.evaluate(study)


def _parameter(dimension: DimensionSpec, value: Any) -> Any:
    return dimension.values.index(value) if dimension.values is not None else unit_position(dimension, value)


def _distribution(dimension: DimensionSpec) -> Any:
    """Ranges as their axis from 0 to 1, so that a logarithmic one counts by its logarithm."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if dimension.values is not None:
        return CategoricalDistribution(tuple(range(len(dimension.values))))
    return FloatDistribution(0.0, 1.0)
