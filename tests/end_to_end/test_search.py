"""`syn2co run` of a search as a user types it: trials with room for two, stops, kills, resumes, failures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import list_files, open_store, read_bytes
from tests.train.local_run import TINY

TIMEOUT_S = 580


def write_search(folder: Path, rates: str = "[0.02, 0.00001, 0.00002, 0.03]") -> Path:
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
        "  train: {workers: {min: 1, max: 1, cpus_each: 0.5}, checkpoint: {every_epochs: 1}}\n"
        "  evaluate: {knn: {every_epochs: 1}, linear: null, baselines: false}\n"
        f"space: {{train.optimizer.learning_rate_base: {{grid: {rates}}}}}\n"
    )
    return search


def start(search: Path, *overrides: str, folder: Path | None = None) -> subprocess.Popen[str]:
    """On this machine's CPUs, of which a trial asks for one."""
    return subprocess.Popen(
        [sys.executable, "-m", "syn2co_ray.cli", "run", str(search), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=folder,
    )


def ended(search: Path, *overrides: str, folder: Path | None = None) -> tuple[int, str]:
    """Exit code, and all that was said."""
    process = start(search, *overrides, folder=folder)
    out, _ = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, out


def killed_when(process: subprocess.Popen[str], seen: Callable[[], bool]) -> None:
    """SIGKILL for the command and all that it started, once something is there; what it says goes nowhere."""
    deadline = time.monotonic() + TIMEOUT_S
    while not seen():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("records/*.json"))]


def is_whole(run: Path) -> bool:
    """Stopped early, asked to stop, or at its end: each is a whole run folder."""
    whole = {"spec.yaml", "results.json", "report.html", "checkpoints", "provenance.json"}
    return whole <= {path.name for path in run.iterdir()}


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
    (room,) = [re.match(r"(\d+) at once on (\d+) CPUs", line) for line in lines if " at once on " in line]
    assert room is not None
    assert room[1] == room[2]
    assert any("run the same command to resume" in line for line in lines)
    (folder,) = (tmp_path / "runs").glob("rates-*")
    before = {record["number"]: record for record in records(folder)}
    done = [number for number, record in before.items() if record["status"] in ("finished", "stopped")]
    assert done
    assert set(before) >= {0, 1, 2}
    assert "running" not in [record["status"] for record in before.values()]
    assert all(is_whole(folder / "trials" / record["run"]) for record in before.values())

    def trial_3_has_a_checkpoint() -> bool:
        names = [record["run"] for record in records(folder) if record["number"] == 3]
        return any(any((folder / "trials" / name).glob("checkpoints/*/MANIFEST.json")) for name in names)

    killed_when(start(search), trial_3_has_a_checkpoint)
    code, out = ended(search)
    assert code == 0, out
    after = {record["number"]: record for record in records(folder)}
    assert sorted(after) == [0, 1, 2, 3]
    assert {record["status"] for record in after.values()} == {"finished", "stopped"}
    assert all(is_whole(folder / "trials" / record["run"]) for record in after.values())
    for number in done:
        assert after[number] == before[number]
        assert f"trial {number} goes on" not in out
    assert "trial 3 goes on" in out
    results = json.loads((folder / "trials" / after[3]["run"] / "results.json").read_text())
    assert results["resumed_from_steps"][0] >= 5
    best = max(after.values(), key=lambda record: (record["status"] == "finished", record["value"]))
    table = pq.read_table(folder / "leaderboard.parquet").to_pylist()
    assert [row["rank"] for row in table] == [1, 2, 3, 4]
    assert table[0]["point_number"] == best["point_number"]
    assert f"leaderboard: {folder / 'search.html'}" in out

    code, out = ended(search)
    assert code == 0, out
    assert "this search is finished; its results:" in out


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.object_store
def test_a_search_in_s3_is_killed_goes_on_elsewhere_and_records_what_fails(
    s3_environment, tmp_path_factory
) -> None:
    """The second rate gives no finite weights. Where it goes on there is the bucket and the job file alone."""
    here, elsewhere = (tmp_path_factory.mktemp(name) for name in ("here", "elsewhere"))
    bucket = s3_environment.make_bucket("searches")
    places = (
        f"base.storage={bucket}/runs",
        f"base.data.prepare=[{{dataset: digits, into: {bucket}/digits}}]",
        f"base.data.train=[{{uri: {bucket}/digits/train}}]",
        f"base.data.eval.uri={bucket}/digits/eval",
        "base.track={tensorboard: true}",
        "scheduler=none",
        "retries=0",
    )
    store = open_store(f"{bucket}/runs", ObjectStoreSpec())

    def found(end: str) -> list[str]:
        return [file.path for file in list_files(store, missing_ok=True) if file.path.endswith(end)]

    search = write_search(here, "[0.02, 1.0e+30]")
    killed_when(
        start(search, *places, folder=here), lambda: any("/checkpoints/" in p for p in found("MANIFEST.json"))
    )
    search = write_search(elsewhere, "[0.02, 1.0e+30]")
    code, out = ended(search, *places, folder=elsewhere)
    assert code == 0, out
    assert {path.name for path in elsewhere.iterdir()} == {"tiny.yaml", "rates.yaml"}
    kept = sorted(
        (json.loads(read_bytes(store, path)) for path in found(".json") if "/records/" in path),
        key=lambda record: record["number"],
    )
    assert [record["status"] for record in kept] == ["finished", "failed"], out
    assert "the encoder has diverged" in kept[1]["error"]
    results = [path for path in found("results.json") if kept[0]["run"] in path]
    assert json.loads(read_bytes(store, results[0]))["resumed_from_steps"][0] >= 5
    assert any("/tensorboard/events" in path and kept[0]["run"] in path for path in found(""))
