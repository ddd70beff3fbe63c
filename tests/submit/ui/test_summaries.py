"""How a run stands, told from the files that it has written and when."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from syn2co_ray.report.run_folders import find_places
from syn2co_ray.submit.ui.storages import Seen
from syn2co_ray.submit.ui.summaries import UNDER_WAY_S, Summary, live_curves, summary

from ...report.conftest import RESULTS, RunFolder
from .conftest import store_of


def summary_of(run: RunFolder, now: float) -> Summary:
    (place,) = find_places(store_of(str(run.path))).places
    return summary(Seen(0, place), now)


def written(run: RunFolder, at_unix_s: float, name: str = "") -> None:
    """Give a file, or all of a run, a time."""
    for path in [run.path / name] if name else [path for path in run.path.rglob("*") if path.is_file()]:
        os.utime(path, (at_unix_s, at_unix_s))


@pytest.mark.parametrize(
    ("results_status", "measured_after_s", "age_s", "status"),
    [
        (None, 0.0, UNDER_WAY_S - 1, "under way"),
        (None, 0.0, UNDER_WAY_S + 1, "silent"),
        ("interrupted", -10.0, 5.0, "interrupted"),
        ("interrupted", 10.0, 5.0, "under way"),
        ("interrupted", 10.0, UNDER_WAY_S + 1, "interrupted"),
        ("finished", 10.0, 5.0, "finished"),
    ],
)
def test_a_run_is_under_way_while_it_writes_more_than_its_results(
    tmp_path: Path, results_status: str | None, measured_after_s: float, age_s: float, status: str
) -> None:
    run, now = RunFolder(tmp_path / "run"), time.time()
    run.write_finished()
    run.write("results.json", RESULTS | {"status": results_status})
    written(run, now - age_s - max(0.0, measured_after_s))
    if results_status is None:
        (run.path / "results.json").unlink()
    written(run, now - age_s if measured_after_s >= 0 else now - age_s - 10, "metrics/steps-000000000.jsonl")
    assert summary_of(run, now).status == status


def test_figures_come_from_the_results_else_from_the_newest_measurement(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.write_finished()
    done = summary_of(run, time.time())
    assert (done.knn, done.linear, done.step) == ("93.06", "96.39", "k=20")
    (run.path / "results.json").unlink()
    under_way = summary_of(run, time.time())
    assert (under_way.knn, under_way.linear, under_way.step) == ("79.50", "", "k=20, step 100")


@pytest.mark.parametrize("kind", ["embed", "evaluate"])
def test_a_job_without_metrics_is_under_way_while_it_writes_shards(tmp_path: Path, kind: str) -> None:
    run, now = RunFolder(tmp_path / "run"), time.time()
    run.write("spec.yaml", f"kind: {kind}\nname: run")
    run.write("embeddings/shard-000000.parquet", b"")
    written(run, now - 2 * UNDER_WAY_S)
    assert summary_of(run, now).status == "silent"
    written(run, now - 5.0, "embeddings/shard-000000.parquet")
    assert summary_of(run, now).status == "under way"


def test_a_run_that_cannot_be_understood_says_why(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.write("spec.yaml", "- a list")
    found = summary_of(run, time.time())
    assert (found.status, found.fault) == ("unreadable", "spec.yaml is no mapping")


def test_live_curves_have_each_step_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.write_steps(1, 20, loss=2.0)
    run.write_steps(11, 30, loss=1.0)
    curves = live_curves(run.store)
    assert curves.loss == [(float(step), 2.0 if step < 11 else 1.0) for step in range(1, 31)]
    assert curves.knn == []
