"""Training probes on Ray: Ctrl-C, SIGTERM and a killed driver, each resumed by the same command.

Each test starts three Ray clusters, one after the other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.submit.local_probes import JOB

from .test_run import RUN_TIMEOUT_S, start, stopped

LINEAR = """\
linear_augmented:
  epochs: 100
  images_per_step: 128
  warmup_epochs: 1
  crop_scale: [0.6, 1.0]
  flip_probability: 0
"""
FINE_TUNE = """\
fine_tune:
  shares: [0.1]
  epochs: 100
  images_per_step: 64
  learning_rate: 1.0e-3
  crop_scale: [0.6, 1.0]
  flip_probability: 0
"""

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def written(folder: Path, section: str) -> Path:
    folder.mkdir(exist_ok=True)
    job = folder / "digits.yaml"
    job.write_text(JOB.format(folder=folder) + section)
    return job


def command(job: Path, workers: int) -> subprocess.Popen[str]:
    section = "fine_tune" if "fine_tune" in job.read_text() else "linear_augmented"
    pool = f"{section}.workers={{min: {workers}, max: {workers}, cpus_each: 0.5}}"
    return start(job, pool, training=False)


def finished(run: subprocess.Popen[str]) -> str:
    out, _ = run.communicate(timeout=RUN_TIMEOUT_S)
    assert run.returncode == 0, out
    return out


def steps_of_probe(folder: Path, name: str) -> list[tuple[int, int, float]]:
    """Step, digest of its keys and loss of every step, as recorded."""
    (metrics,) = (folder / "evaluations").glob(f"digits-*/probes/{name}-*/metrics")
    rows = [json.loads(line) for file in sorted(metrics.iterdir()) for line in file.read_text().splitlines()]
    return [(row["step"], row["keys_digest"], row["loss"]) for row in rows]


def row_of(folder: Path) -> dict[str, Any]:
    (results,) = (folder / "evaluations").glob("digits-*/results.json")
    return json.loads(results.read_text())["rows"][0]


def test_a_probe_stopped_by_ctrl_c_and_by_sigterm_goes_on_with_other_workers(tmp_path: Path) -> None:
    job = written(tmp_path, LINEAR)
    first = command(job, 2)
    stopped(first, "epoch ", lambda: os.killpg(first.pid, signal.SIGINT))
    second = command(job, 1)
    stopped(second, "epoch ", second.terminate)
    out = finished(command(job, 1))
    assert "resumed from step" in out
    assert row_of(tmp_path)["linear_augmented"]["top1_percent"] > 20  # chance: 10
    steps = [step for step, _, _ in steps_of_probe(tmp_path, "linear-random")]
    assert steps == list(range(1, 100 * 11 + 1))
    (run,) = (tmp_path / "evaluations").glob("digits-*/probes/linear-random-*")
    results = json.loads((run / "results.json").read_text())
    assert len(results["resumed_from_steps"]) == 2
    assert (run / "report.html").is_file()


def test_a_probe_whose_driver_was_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    job = written(tmp_path, FINE_TUNE)
    first = command(job, 1)
    while not list(tmp_path.glob("evaluations/*/probes/fine-tune-*/checkpoints/*/MANIFEST.json")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)  # looks at the folder, waits for nothing else
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert "resumed from step" in finished(command(job, 1))
    finished(command(written(tmp_path / "whole", FINE_TUNE), 1))
    assert steps_of_probe(tmp_path, "fine-tune-0.1-random") == steps_of_probe(
        tmp_path / "whole", "fine-tune-0.1-random"
    )
    undisturbed, disturbed = (row_of(folder)["fine_tune"]["0.1"] for folder in (tmp_path / "whole", tmp_path))
    assert disturbed["top1_percent"] == undisturbed["top1_percent"] > 15
