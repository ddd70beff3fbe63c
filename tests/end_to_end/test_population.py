"""`syn2co run` of a population: two trials train side by side, the driver is killed, one takes over the other."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from torch import equal

from tests.train.local_run import TINY

from .test_search import TIMEOUT_S, records, start

STEPS = 5  # of an epoch


def write_population(folder: Path) -> Path:
    (folder / "tiny.yaml").write_text(TINY.format(folder=folder).replace("  epochs: 4\n", "  epochs: 2\n"))
    search = folder / "rates.yaml"
    search.write_text(
        "kind: search\nname: rates\nmetric: knn\nsearcher: grid\n"
        "scheduler: {name: pbt, every_epochs: 1, quantile: 0.5}\n"
        "base:\n  base: tiny.yaml\n"
        "  data: {reader_cpus_each: 0.25}\n"
        "  augment: {actors: {min: 1, max: 1, cpus_each: 0.25}}\n"
        "  train: {workers: {min: 1, max: 1, cpus_each: 0.5}}\n"
        "  evaluate: {knn: {every_epochs: 1}, linear: null, baselines: false}\n"
        "space: {train.optimizer.learning_rate_base: {grid: [0.02, 0.00001]}}\n"
    )
    return search


def checkpoint(run: Path, step: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Networks with queues, optimizer, state."""
    folder = run / "checkpoints" / f"step-{step:09d}"
    assert (folder / "MANIFEST.json").exists()
    state = json.loads((folder / "state.json").read_text())
    return load_file(folder / "method.safetensors"), load_file(folder / "optimizer.safetensors"), state


@pytest.mark.slow
@pytest.mark.ray
def test_the_worst_trial_goes_on_from_the_best_ones_checkpoint_also_after_a_kill(tmp_path: Path) -> None:
    search = write_population(tmp_path)
    first, killed = start(search), False
    for line in first.stdout:
        if "goes on after 1 epochs from trial" in line:
            os.killpg(first.pid, signal.SIGKILL)
            killed = True
    first.wait(TIMEOUT_S)
    assert killed

    second = start(search)
    out, _ = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 0, out
    (folder,) = (tmp_path / "runs").glob("rates-*")
    found = {record["number"]: record for record in records(folder)}
    assert [record["status"] for record in found.values()] == ["finished"] * 2
    (heir,) = [record for record in found.values() if record["lineage"]]
    (took,) = heir["lineage"]
    value = {number: record["evaluations"][0]["value"] for number, record in found.items()}
    assert value[heir["number"]] == min(value.values())
    assert value[took["donor"]] == max(value.values())

    # The first checkpoint of its new run is the donor's of that epoch, to the bit.
    border = STEPS
    run, donor = folder / "trials" / heir["run"], folder / "trials" / took["donor_run"]
    ours, theirs = checkpoint(run, border), checkpoint(donor, border)
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert mine.keys() == other.keys()
        assert all(equal(mine[name], other[name]) for name in mine)
    assert any(name.startswith("queue_1.features") for name in ours[0])
    assert int(ours[0]["queue_1.pointer"]) == border * 32 % 72
    before = checkpoint(folder / "trials" / took["run"], border)
    assert not equal(before[0]["queue_1.features"], ours[0]["queue_1.features"])

    # It trains on from the donor's step with its own rate, and says where it comes from.
    lines = [
        json.loads(line) for path in run.glob("metrics/steps-*") for line in path.read_text().splitlines()
    ]
    assert sorted(row["step"] for row in lines) == list(range(border + 1, 2 * STEPS + 1))
    last = checkpoint(run, 2 * STEPS)
    assert not equal(last[0]["queue_1.features"], ours[0]["queue_1.features"])
    rate = heir["point"]["train.optimizer.learning_rate_base"]
    assert last[2]["spec"]["train"]["optimizer"]["learning_rate_base"] == rate
    origin = {"run": took["donor_run"], "step": border, "epoch": 1, "spec_hash": theirs[2]["spec_hash"]}
    assert last[2]["inherited_from"] == [origin]
    assert json.loads((run / "provenance.json").read_text())["inherited_from"] == [origin]
    rows = {row["point_number"]: row for row in pq.read_table(folder / "leaderboard.parquet").to_pylist()}
    assert rows[heir["number"]]["lineage"][0].startswith(f"after 1 epochs from trial {took['donor']}: ")
    assert rows[heir["number"]]["runs"] == [took["run"], heir["run"]]
