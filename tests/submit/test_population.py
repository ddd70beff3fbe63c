"""Trials of a population that really train, in this process instead of on Ray: one takes over the other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from syn2co_ray.search.loop import Search
from syn2co_ray.search.records import Records
from syn2co_ray.search.trials import Trial
from syn2co_ray.spec.load import load_job
from syn2co_ray.spec.search import SearchSpec
from syn2co_ray.submit import search_runs
from syn2co_ray.submit.search_results import search_store
from syn2co_ray.train.inheritance import hand_over
from tests.end_to_end.test_population import STEPS, checkpoint, write_population
from tests.train.local_run import local_loop


def train_here(
    prepared: Any, workers: int, unseen: Any, stop: Any, marks: Any, look_on: Any, until: int | None
) -> Any:
    """`pretraining.train` without Ray; k-NN is the learning rate."""
    rate = prepared.job.train.optimizer.learning_rate_base
    loop = local_loop(prepared, stop_after_epochs=until, evaluate=lambda *args: {"knn": {"5": 100 * rate}})
    outcome = loop.run_to_end()
    rows = [{"features": "trained encoder", "knn_top1_percent": {"5": 100 * rate}}]
    results = {"status": outcome.status, "steps": outcome.step, "rows": rows}
    prepared.run.write_json("results.json", results)
    return results


@pytest.mark.slow
def test_the_worst_trial_trains_on_from_the_best_ones_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_runs, "train", train_here)
    monkeypatch.setattr(search_runs, "write_report", lambda store: None)
    torch.set_num_threads(1)
    spec = load_job(write_population(tmp_path))
    assert isinstance(spec, SearchSpec)
    lines: list[str] = []

    def start(trial: Trial) -> search_runs.TrialRun:
        return search_runs.TrialRun(trial.job, spec, trial.stop_after_epochs)

    search = Search(spec, Records(search_store(spec)), start, 1, time.time(), lines.append, hand_over)
    deadline = time.monotonic() + 300
    while search.step(time.time()):
        assert time.monotonic() < deadline, lines
    heir, donor = search.known[1], search.known[0]
    assert [heir.status, donor.status] == ["finished", "finished"], lines
    (took,) = heir.lineage
    assert (took.epoch, took.donor, took.donor_run) == (1, 0, donor.run)
    trials = next((tmp_path / "runs").glob("rates-*")) / "trials"
    ours, theirs = checkpoint(trials / heir.run, STEPS), checkpoint(trials / donor.run, STEPS)
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    before = checkpoint(trials / took.run, STEPS)
    assert not torch.equal(before[0]["queue_1.features"], ours[0]["queue_1.features"])
    last = checkpoint(trials / heir.run, 2 * STEPS)
    assert [each["step"] for each in last[2]["inherited_from"]] == [STEPS]
    assert last[2]["resumed_from_steps"] == [STEPS]
