"""BOHB: what it learns from, and whether it finds what is good."""

from __future__ import annotations

import pytest

from syn2co_ray.search.bohb import is_drawn, lengths, number_of_good, points_to_learn_from
from syn2co_ray.search.records import Evaluation, Record
from syn2co_ray.spec.points import drawn_point
from syn2co_ray.spec.search import SchedulerSpec

from .fakes import TEXT, Cluster, run_to_end, search_on, search_spec

BOHB = TEXT.replace(
    "searcher: grid", "searcher: bohb\nscheduler: {name: hyperband, grace_epochs: 2}\ntrials: 36"
).replace("{grid: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}", "{uniform: [0.0001, 1.0]}")


def record(number: int, epochs: int) -> Record:
    """Its metric is its number and a hundredth an epoch."""
    evaluations = [Evaluation(epoch, number + epoch / 100, 0.0) for epoch in range(1, epochs + 1)]
    return Record(number, number, {"method.temperature": number / 10}, 1, "run", "stopped", evaluations)


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "expected"),
    [(2, 3, 10, [2, 6, 10]), (1, 2, 8, [1, 2, 4, 8]), (4, 3, 8, [4, 8])],
)
def test_runs_are_compared_at_the_rungs_and_at_the_end(grace, factor, epochs, expected):
    spec = SchedulerSpec(name="asha", grace_epochs=grace, reduction_factor=factor)
    assert lengths(spec, epochs) == expected


def test_it_learns_from_what_has_ended_at_the_longest_length_it_came_to(tmp_path):
    spec = search_spec(tmp_path, text=BOHB)  # one key: four points
    assert points_to_learn_from(spec, [record(n, 2) for n in range(3)]) == []
    known = [record(0, 1), record(1, 2), record(2, 5), record(3, 7), record(4, 10), record(5, 10)]
    known[5].status = "running"
    assert points_to_learn_from(spec, known) == [
        ({"method.temperature": 0.1}, 2, pytest.approx(1.02)),
        ({"method.temperature": 0.2}, 2, pytest.approx(2.02)),
        ({"method.temperature": 0.3}, 6, pytest.approx(3.06)),
        ({"method.temperature": 0.4}, 10, pytest.approx(4.1)),
    ]
    assert [number_of_good(spec, count) for count in (4, 10, 20, 40)] == [2, 2, 3, 6]


def test_a_third_is_drawn_and_the_others_come_closer_to_the_best_also_after_a_resume(tmp_path):
    cluster = Cluster(lambda trial, epoch: epoch * (5 - abs(trial.point["method.temperature"] - 0.7)))
    first, _ = search_on(tmp_path, cluster, text=BOHB, concurrent=4)
    for minute in range(20):
        first.step(60.0 * minute)
    known = {number: record.point for number, record in first.known.items()}
    rest, _ = search_on(tmp_path, cluster, text=BOHB, concurrent=4, now_s=1200.0)
    run_to_end(rest, now_s=1200.0)
    points = [rest.known[number].point for number in range(36)]
    assert points[: len(known)] == list(known.values())
    drawn = [number for number in range(36) if is_drawn(rest.spec, number)]
    assert 6 <= len(drawn) <= 18
    assert all(points[number] == drawn_point(rest.spec, number) for number in drawn)
    suggested = [points[n]["method.temperature"] for n in range(18, 36) if n not in drawn]
    near = sum(0.5 < value < 0.9 for value in suggested)
    assert near > 0.6 * len(suggested)  # 0.4 by chance
