"""Several metrics: which points no other beats, in the leaderboard and for Optuna."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest

from syn2co_ray.report.search_page import leaderboard_lines
from syn2co_ray.search.leaderboard import leaderboard, leaderboard_parquet
from syn2co_ray.search.pareto import pareto_front

from .fakes import TEXT, Cluster, run_to_end, search_on


@pytest.mark.parametrize(
    ("values", "directions", "front"),
    [
        ({0: (1, 1), 1: (2, 2)}, (True, True), {1}),
        ({0: (1, 1), 1: (2, 2)}, (True, False), {0, 1}),
        ({0: (1, 1), 1: (2, 2)}, (False, False), {0}),
        ({0: (1, 1), 1: (1, 1)}, (True, True), {0, 1}),  # equal ones do not beat each other
        ({0: (1, 2), 1: (1, 1), 2: (0, 3)}, (True, True), {0, 2}),
        ({0: (5, 1, 9), 1: (4, 2, 9), 2: (4, 1, 9)}, (True, True, False), {0, 1}),
        ({}, (True,), set()),
    ],
)
def test_the_front_is_what_no_other_point_beats_in_all_metrics(values, directions, front):
    assert pareto_front(values, directions) == front


def trade_off(trial):
    """The hotter the better the k-NN; the loss is least in the middle."""
    heat = trial.point["method.temperature"]
    return {"knn": 100 * heat, "loss": abs(heat - 0.4)}


def test_the_leaderboard_marks_the_front_and_puts_it_first(tmp_path):
    cluster = Cluster()
    cluster.metrics = trade_off
    search, _ = search_on(tmp_path, cluster, "metric=[knn, loss]")
    run_to_end(search)
    entries = leaderboard(search.spec, search.known.values())
    assert [entry.point_number for entry in entries] == [5, 4, 3, 2, 1, 0]
    assert [entry.pareto for entry in entries] == [True, True, True, False, False, False]
    assert entries[1].values == pytest.approx({"knn": 50, "loss": 0.1})
    row = pq.read_table(io.BytesIO(leaderboard_parquet(entries))).to_pylist()[1]
    assert dict(row["values"]) == pytest.approx({"knn": 50, "loss": 0.1})
    assert row["pareto"]
    lines = leaderboard_lines("knn", [vars(entry) for entry in entries])
    assert "50.00, loss 0.1000" in lines[2]
    assert "finished, Pareto front" in lines[2]
    assert "Pareto" not in lines[4]


def test_what_the_search_counts_itself_is_a_metric_too(tmp_path):
    cluster = Cluster(gpus_each=2.0)
    cluster.metrics = lambda trial: {
        "knn": 50.0,
        "gpu_hours": None,
        "wall_hours": None,
        "knn_per_gpu_hour": 50.0,
    }
    gpus = "base.train.workers={min: 1, max: 1, gpus_each: 2}"
    search, _ = search_on(tmp_path, cluster, gpus, "metric=[knn, gpu_hours, wall_hours, knn_per_gpu_hour]")
    run_to_end(search)
    hours = 10 / 60  # ten looks, a minute each
    assert search.known[0].values == pytest.approx(
        {"knn": 50, "gpu_hours": 2 * hours, "wall_hours": hours, "knn_per_gpu_hour": 50 / (2 * hours)}
    )


def test_points_without_all_seeds_or_metrics_are_not_on_the_front(tmp_path):
    cluster = Cluster()
    cluster.metrics = lambda trial: (
        {**trade_off(trial), "loss": None} if trial.number == 10 else trade_off(trial)
    )
    cluster.fails = {8: [2, 2]}
    search, _ = search_on(tmp_path, cluster, "seeds=2", "metric=[knn, loss]")
    run_to_end(search)
    entries = {entry.point_number: entry for entry in leaderboard(search.spec, search.known.values())}
    assert entries[5].values["loss"] == pytest.approx(0.2)  # of its other seed
    assert not entries[4].pareto
    assert entries[3].pareto


def test_optuna_looks_for_the_whole_front_and_resumes(tmp_path):
    text = TEXT.replace("searcher: grid", "searcher: optuna\ntrials: 40").replace(
        "{grid: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}", "{uniform: [0.0001, 1.0]}"
    )
    cluster = Cluster()
    # Between 0.6 and 0.8 one is bought with the other; elsewhere both get worse.
    cluster.metrics = lambda trial: {
        "knn": -abs(trial.point["method.temperature"] - 0.6),
        "loss": abs(trial.point["method.temperature"] - 0.8),
    }
    first, _ = search_on(tmp_path, cluster, "metric=[knn, loss]", text=text)
    for minute in range(150):
        first.step(60.0 * minute)
    known = {number: record.point for number, record in first.known.items()}
    rest, _ = search_on(tmp_path, cluster, "metric=[knn, loss]", text=text)
    run_to_end(rest)
    heat = [rest.known[number].point["method.temperature"] for number in range(40)]
    assert [rest.known[number].point for number in known] == list(known.values())
    found = [0.55 < value < 0.85 for value in heat]
    assert sum(found[20:]) > 10 > sum(found[:10])  # six of twenty by chance
    assert min(heat[20:]) < 0.65
    assert max(heat[20:]) > 0.75
