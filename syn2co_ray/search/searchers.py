"""The point of each number: drawn, of the grid, or suggested by Optuna from what came out so far.

Suggestions are functions of the records and the point's number: a resumed search tells Optuna all again.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ..spec.points import Point, drawn_point, point_by, points_of, quantised
from ..spec.search import DimensionSpec, SearchSpec
from .bohb import is_drawn, number_of_good, points_to_learn_from
from .records import Record


def point_of(search: SearchSpec, number: int, records: Mapping[int, Record]) -> Point:
    """The point of this number; the same for all its seeds, and after a restart."""
    for record in records.values():
        if record.point_number == number:
            return record.point
    if search.searcher == "optuna":
        return _suggested(search, number, records.values())
    if search.searcher == "bohb":
        return _suggested_by_bohb(search, number, records.values())
    return points_of(search)[number]


def _suggested(search: SearchSpec, number: int, records: Iterable[Record]) -> Point:
    """Optuna's tree-structured Parzen estimator, told all points again.

    Of several metrics it is the multi-objective one (Ozaki et al. 2022), which splits points by how many
    others beat them in all metrics. NSGA-II would need its generations remembered, which this is free of.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A trial that runs counts as a bad one: others look elsewhere meanwhile.
    sampler = optuna.samplers.TPESampler(seed=search.seed + number, constant_liar=True)
    both = optuna.study.StudyDirection
    directions = [both.MAXIMIZE if more else both.MINIMIZE for more in search.directions]
    study = optuna.create_study(sampler=sampler, directions=directions)
    for point, ended, values in points_so_far(records, search.metrics):
        study.add_trial(_told(search.space, point, ended, values))
    trial = study.ask()
    return point_by(search.space, lambda key, dimension: _ask(trial, key, dimension))


def _suggested_by_bohb(search: SearchSpec, number: int, records: Iterable[Record]) -> Point:
    """What `bohb` says, with Optuna's multivariate estimator."""
    import optuna

    known = list(records)
    learned = points_to_learn_from(search, known)
    if is_drawn(search, number) or not learned:
        return drawn_point(search, number)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        # Optuna 6 will drop `gamma`, without which one of ten points is good: too few to learn from so few.
        warnings.simplefilter("ignore", FutureWarning)
        sampler = optuna.samplers.TPESampler(
            seed=search.seed + number,
            multivariate=True,
            constant_liar=True,
            n_startup_trials=0,
            gamma=lambda count: number_of_good(search, count),
        )
    study = optuna.create_study(sampler=sampler, direction="maximize" if search.maximises else "minimize")
    for point, epochs, value in learned:
        study.add_trial(_told(search.space, point, True, [value], epochs))
    for point, ended, _ in points_so_far(known):
        if not ended:
            study.add_trial(_told(search.space, point, False, None))
    trial = study.ask()
    return point_by(search.space, lambda key, dimension: _ask(trial, key, dimension))


def points_so_far(
    records: Iterable[Record], metrics: tuple[str, ...] | None = None
) -> list[tuple[Point, bool, list[float] | None]]:
    """Each point that was started, whether all that was started of it has ended, and its mean metrics.

    The metrics are None where one of them is not known.
    """
    by_point: dict[int, list[Record]] = {}
    for record in records:
        by_point.setdefault(record.point_number, []).append(record)
    found = []
    for _, members in sorted(by_point.items()):
        all_values = [
            [value for record in members if (value := record.values.get(metric)) is not None]
            for metric in metrics or ()
        ] or [[record.value for record in members if record.value is not None]]
        means = [sum(values) / len(values) for values in all_values if values]
        complete = means if len(means) == len(all_values) else None
        found.append((members[0].point, all(record.has_ended for record in members), complete))
    return found


def _told(
    space: Mapping[str, DimensionSpec],
    point: Point,
    ended: bool,
    values: list[float] | None,
    epochs: int | None = None,
) -> Any:
    """A point as Optuna's trial; with `epochs` one that came so far only, which is worse than any further."""
    import optuna

    states = optuna.trial.TrialState
    state = states.RUNNING if not ended else states.FAIL if values is None else states.COMPLETE
    if epochs is not None and values is not None:
        state = states.PRUNED
    return optuna.trial.create_trial(
        state=state,
        intermediate_values={epochs: values[0]} if epochs is not None and values is not None else None,
        values=values if state == states.COMPLETE else None,
        params={key: _parameter(space[key], chosen) for key, chosen in point.items()},
        distributions={key: _distribution(space[key]) for key in point},
    )


def _ask(trial: Any, key: str, dimension: DimensionSpec) -> Any:
    limits = _distribution(dimension)
    if dimension.values is not None:
        return dimension.values[trial.suggest_categorical(key, limits.choices)]
    if dimension.randint is not None:
        return trial.suggest_int(key, limits.low, limits.high)
    suggested = trial.suggest_float(key, limits.low, limits.high, step=limits.step, log=limits.log)
    return quantised(dimension, suggested) if dimension.quniform is not None else suggested


def _parameter(dimension: DimensionSpec, value: Any) -> Any:
    """A value as Optuna knows it: a finite one by its position, as it may be a whole section."""
    return dimension.values.index(value) if dimension.values is not None else value


def _distribution(dimension: DimensionSpec) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.values is not None:
        return CategoricalDistribution(tuple(range(len(dimension.values))))
    if dimension.randint is not None:
        return IntDistribution(*dimension.randint)
    if dimension.quniform is not None:
        low, high, step = dimension.quniform
        return FloatDistribution(low, quantised(dimension, high), step=step)
    if dimension.loguniform is not None:
        return FloatDistribution(*dimension.loguniform, log=True)
    assert dimension.uniform is not None
    return FloatDistribution(*dimension.uniform)
