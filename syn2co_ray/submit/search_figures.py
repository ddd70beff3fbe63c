"""The figures of a search's page, from its records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..report.parallel import PointLine, parallel_coordinates
from ..report.search_plots import (
    PointCost,
    TrialCurve,
    best_so_far,
    importance_bars,
    learning_curves,
    metric_against_cost,
)
from ..report.svg import Curve
from ..search.importance import POINTS_MIN, finished_points, importances
from ..search.leaderboard import Entry
from ..search.records import Record
from ..spec.search import SearchSpec
from ..spec.trial_specs import point_in_words

_MEASURED_DURING = {"knn": "k-NN top-1 %", "knn_per_gpu_hour": "k-NN top-1 % a GPU-hour"}


def search_curves(search: SearchSpec, records: Iterable[Record], entries: Sequence[Entry]) -> list[Curve]:
    """All figures, in the order of the page."""
    known = list(records)
    best = entries[0].point_number if entries and entries[0].seeds_finished else None
    finished = finished_points(known)
    return [
        parallel_coordinates(search.space, _lines(known, entries, best), search.metric, search.maximises),
        learning_curves(_trials(known, best), _MEASURED_DURING.get(search.metric, "k-NN top-1 %")),
        metric_against_cost(_costs(entries, best), search.metric, search.maximises),
        best_so_far(_costs(entries, best), search.metric, search.maximises),
        importance_bars(importances(search, finished), len(finished), POINTS_MIN),
    ]


def _lines(records: list[Record], entries: Sequence[Entry], best: int | None) -> list[PointLine]:
    points = {record.point_number: record.point for record in records}
    return [
        PointLine(
            entry.point_number,
            points[entry.point_number],
            entry.point,
            entry.value,
            entry.status == "finished",
            entry.point_number == best,
        )
        for entry in entries
        if entry.value is not None
    ]


def _trials(records: list[Record], best: int | None) -> list[TrialCurve]:
    return [
        TrialCurve(
            record.point_number,
            record.seed,
            point_in_words(record.point),
            record.status,
            [evaluation.epoch for evaluation in record.evaluations],
            [evaluation.value for evaluation in record.evaluations],
            record.point_number == best,
        )
        for record in records
    ]


def _costs(entries: Sequence[Entry], best: int | None) -> list[PointCost]:
    return [
        PointCost(e.point_number, e.point, e.status, e.value, e.wall_s, e.gpu_hours, e.point_number == best)
        for e in entries
        if e.value is not None
    ]
