"""BOHB (Falkner et al. 2018, arXiv 1807.01774): a model of good points from trainings of different lengths.

Early stopping leaves many short trainings and few long ones. A third of all points is drawn at random; the
others come from a multivariate tree-structured Parzen estimator, Optuna's.

The paper models the points of the longest length alone. Where early stopping keeps only good ones, they all
lie together there, and the estimator, which sets the better ones against the worse, leads away from them. So
here a point that was stopped counts too, as worse than all that came further, as Optuna does with pruned
trials.

Not used are the authors' hpbandster and Ray Tune's TuneBOHB on top of it. Both install and run on Python
3.11 (hpbandster 0.7.4, ConfigSpace 1.2, Ray 2.60), but hpbandster has had no release since 2018; TuneBOHB
drops the steps of quniform ("does not support quantization"), knows no conditional keys, wants trials paused
by Tune's HyperBandForBOHB, and draws from numpy's global random numbers, so that a resumed search would
suggest other points.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from statistics import mean

from ..spec.points import Point
from ..spec.search import SchedulerSpec, SearchSpec
from .early_stopping import rungs_of
from .records import Record

RANDOM_FRACTION = 1 / 3
GOOD_FRACTION = 0.15


def is_drawn(search: SearchSpec, number: int) -> bool:
    """Whether the point of this number is drawn at random, whatever is known."""
    return random.Random(f"{search.seed} {number} bohb").random() < RANDOM_FRACTION


def points_min(search: SearchSpec) -> int:
    """Fewest points that a density is estimated from: one more than there are keys."""
    return len(search.space) + 1


def number_of_good(search: SearchSpec, count: int) -> int:
    """How many of so many points are taken for good ones (eq. 3 of the paper)."""
    return max(points_min(search), round(GOOD_FRACTION * count))


def lengths(scheduler: SchedulerSpec, epochs: int) -> list[int]:
    """Epochs after which trainings are compared: the rungs, and the end."""
    return [*rungs_of(scheduler, epochs), epochs]


def points_to_learn_from(search: SearchSpec, records: Iterable[Record]) -> list[tuple[Point, int, float]]:
    """Points that have ended, the longest length that they came to, and their mean metric there.

    Empty while there are fewer than two more than a density needs.
    """
    assert isinstance(search.scheduler, SchedulerSpec)
    by_point: dict[int, list[Record]] = {}
    for record in records:
        by_point.setdefault(record.point_number, []).append(record)
    at = lengths(search.scheduler, search.training.train.epochs)
    found = [
        (members[0].point, *longest)
        for _, members in sorted(by_point.items())
        if all(record.has_ended for record in members) and (longest := _longest(members, at)) is not None
    ]
    return found if len(found) >= points_min(search) + 2 else []


def _longest(members: list[Record], at: list[int]) -> tuple[int, float] | None:
    for epochs in reversed(at):
        values = [
            next((each.value for each in record.evaluations if each.epoch >= epochs), None)
            for record in members
        ]
        known = [value for value in values if value is not None]
        if known:
            return epochs, mean(known)
    return None
