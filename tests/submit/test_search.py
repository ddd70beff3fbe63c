"""What a search leaves behind and what is asked of it afterwards, without a cluster."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from syn2co_ray.report.run_files import ResultRow, Results, RunFiles, StepRecord
from syn2co_ray.search.records import Records
from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.load import load_text
from syn2co_ray.submit.search_progress import SearchProgress, running_lines, summary_line
from syn2co_ray.submit.search_results import (
    best_job,
    compare_lines,
    result_lines,
    search_store,
    write_search_results,
)
from syn2co_ray.submit.search_runs import metric_of
from tests.search.fakes import Cluster, run_to_end, search_on, search_spec


def ended_search(folder, *overrides):
    """A search of fakes whose records lie where the real one looks for them."""
    spec = search_spec(folder, *overrides)
    search, _ = search_on(folder, Cluster(), *overrides)
    search.records = Records(search_store(spec))
    run_to_end(search)
    return spec, search


def test_results_page_and_parquet_are_written_and_the_best_is_a_job_that_is_the_trial(tmp_path):
    spec, search = ended_search(tmp_path)
    results = write_search_results(spec, search.known, "", search.wall_s)
    folder = tmp_path / results["search"]
    assert {path.name for path in folder.iterdir()} >= {"leaderboard.parquet", "search.html", "results.json"}
    assert json.loads((folder / "results.json").read_text())["best"]["point_number"] == 5
    page = (folder / "search.html").read_text()
    assert "method.temperature=0.6" in page
    assert "<script" not in page
    # SVG's own names, which nothing asks for.
    assert "http" not in page.partition("</style>")[2].replace("http://www.w3.org/", "")
    lines = list(result_lines(spec, results))
    assert lines[1].split()[:3] == ["1", "5", "60.00"]
    entry = best_job(spec)
    job = load_text(entry.spec)
    assert (job.kind, job.method.temperature, job.seed) == ("pretrain", 0.6, 1)
    assert entry.runs == [f"{job.name}-{entry.runs[0].rsplit('-', 1)[1]}"]


def test_best_and_compare_of_a_search_that_did_not_run_say_so(tmp_path):
    spec = search_spec(tmp_path)
    with pytest.raises(SpecError, match="no finished trial"):
        best_job(spec)
    with pytest.raises(SpecError, match="no seed in common"):
        list(compare_lines(spec, 0, 1))


def test_compare_reads_the_seeds_of_both_points(tmp_path):
    spec, _ = ended_search(tmp_path, "seeds=5")
    lines = list(compare_lines(spec, 0, 5))
    assert lines[0] == "knn over 5 seeds: A (point 0) 10, B (point 5) 60"
    assert lines[-1] == "B is above A"
    assert list(compare_lines(spec, 2, 2))[-1].startswith("noise")


def test_lines_say_what_runs_what_is_best_what_is_used_and_how_long_it_takes(tmp_path):
    search, _ = search_on(tmp_path, Cluster(), "budget.wall_hours=2")
    for minute in range(16):
        search.step(60.0 * minute)
    assert summary_line(search) == (
        "trials: 2 finished, 2 running, 2 waiting  best knn 20 (point 1: method.temperature=0.2)  "
        "wall_hours 0.25 of 2  ETA 15 min 00 s"
    )
    out = io.StringIO()
    with SearchProgress(Console(file=out, width=200)) as progress:
        progress.show(search)
        progress.show(search)
    assert out.getvalue().count("trials: ") == 1


def test_a_terminal_shows_a_table_of_what_runs_above_the_summary(tmp_path):
    search, _ = search_on(tmp_path, Cluster())
    for minute in range(4):
        search.step(60.0 * minute)
    search.active[1].run.progress = {"epoch": 2, "epochs": 10, "loss": 6.5}
    out = io.StringIO()
    with SearchProgress(Console(file=out, width=120, force_terminal=True)) as progress:
        progress.show(search)
    assert running_lines(search) == [
        "trial  point     epoch    loss  knn",
        "0          0  starting            3",
        "1          1      3/10  6.5000    6",
    ]
    assert "1          1      3/10  6.5000    6" in out.getvalue()
    assert "trials: 2 running, 4 waiting" in out.getvalue()


def test_metrics_of_a_finished_run_are_read_from_its_folder():
    def step(number, epoch, loss, **stats):
        return StepRecord(step=number, epoch=epoch, loss=loss, stats=stats)

    rows = [
        ResultRow(features="trained encoder", knn_top1_percent={5: 80.0, 10: 81.0}, linear_top1_percent=90.0)
    ]
    steps = [step(1, 0, 9.0), step(2, 1, 4.0, **{"embedding/rankme": 7.0}), step(3, 1, 2.0)]
    files = RunFiles(steps=steps, results=Results(status="finished", rows=rows))
    values = {metric: metric_of(files, metric, 10) for metric in ("knn", "linear", "loss", "rankme")}
    assert values == {"knn": 81.0, "linear": 90.0, "loss": 3.0, "rankme": 7.0}
    assert metric_of(RunFiles(steps=[*steps, step(4, 2, 1.0)]), "rankme", 10) == 7.0
    assert metric_of(RunFiles(steps=steps), "knn", 10) is None
