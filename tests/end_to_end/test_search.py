"""`syn2co run` of a search as a user types it: four trials with room for two, a stop, a kill, a resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.train.local_run import TINY

TIMEOUT_S = 580


def write_search(folder: Path) -> Path:
    """Learning rates from none to a good one, of the tiny job with 8 epochs of 5 steps."""
    base = TINY.format(folder=folder).replace("  epochs: 4\n", "  epochs: 8\n")
    (folder / "tiny.yaml").write_text(base)
    search = folder / "rates.yaml"
    search.write_text(
        "kind: search\nname: rates\nmetric: knn\nsearcher: grid\n"
        "scheduler: {name: asha, grace_epochs: 2, reduction_factor: 2}\n"
        "base:\n  base: tiny.yaml\n"
        "  data: {reader_cpus_each: 0.25}\n"
        "  augment: {actors: {min: 1, max: 1, cpus_each: 0.25}}\n"
        "  train: {workers: {min: 1, max: 1, cpus_each: 0.5}}\n"
        "  evaluate: {knn: {every_epochs: 1}, linear: null, baselines: false}\n"
        "space: {train.optimizer.learning_rate_base: {grid: [0.02, 0.00001, 0.03, 0.00002]}}\n"
    )
    return search


def start(search: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "syn2co_ray.cli", "run", str(search), "max_concurrent=2", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("records/*.json"))]


@pytest.mark.slow
@pytest.mark.ray
def test_four_trials_with_room_for_two_stopped_killed_and_resumed(tmp_path):
    search = write_search(tmp_path)
    first, lines, asked = start(search), [], False
    for line in first.stdout:
        lines.append(line)
        if not asked and sum(line.startswith("trial 2 starts") for line in lines):
            asked = True
            os.killpg(first.pid, signal.SIGINT)
    assert first.wait(TIMEOUT_S) == 130, "".join(lines)
    assert "4 points, grid, scheduler asha" in lines[0]
    assert any("run the same command to resume" in line for line in lines)
    (folder,) = (tmp_path / "runs").glob("rates-*")
    before = {record["number"]: record for record in records(folder)}
    ended = [number for number, record in before.items() if record["status"] in ("finished", "stopped")]
    assert ended
    assert set(before) >= {0, 1, 2}
    assert "running" not in [record["status"] for record in before.values()]
    for number in before:
        run = folder / "trials" / before[number]["run"]
        # Stopped early, asked to stop, or at its end: each is a whole run folder.
        whole = {"spec.yaml", "results.json", "report.html", "checkpoints", "provenance.json"}
        assert whole <= {path.name for path in run.iterdir()}

    second = start(search)
    for line in second.stdout:
        if line.startswith("trial 3 "):
            os.killpg(second.pid, signal.SIGKILL)
    second.wait(TIMEOUT_S)

    third = start(search)
    out, _ = third.communicate(timeout=TIMEOUT_S)
    assert third.returncode == 0, out
    after = {record["number"]: record for record in records(folder)}
    assert sorted(after) == [0, 1, 2, 3]
    assert {record["status"] for record in after.values()} <= {"finished", "stopped"}
    for number in ended:
        assert after[number] == before[number]
        assert f"trial {number} goes on" not in out
    assert "trial 3 goes on" in out
    best = max(after.values(), key=lambda record: (record["status"] == "finished", record["value"]))
    table = pq.read_table(folder / "leaderboard.parquet").to_pylist()
    assert [row["rank"] for row in table] == [1, 2, 3, 4]
    assert table[0]["point_number"] == best["point_number"]
    assert f"leaderboard: {folder / 'search.html'}" in out

    fourth = start(search)
    out, _ = fourth.communicate(timeout=TIMEOUT_S)
    assert fourth.returncode == 0, out
    assert "this search is finished; its results:" in out
