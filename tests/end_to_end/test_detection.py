"""Detection on Ray: a killed worker, a killed driver and Ctrl-C leave the figures of an undisturbed training."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.submit.test_detection import job_text

from .test_run import RUN_TIMEOUT_S, start, stopped, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.ray]

LONG = ("detection.epochs=40", "detection.checkpoint_every_steps=8")


def finished(job: Path) -> str:
    run = start(job, *LONG, training=False)
    out, _ = run.communicate(timeout=RUN_TIMEOUT_S)
    assert run.returncode == 0, out
    return out


def row_of(folder: Path) -> dict[str, Any]:
    (results,) = (folder / "runs").glob("shapes-*/results.json")
    return json.loads(results.read_text())["detection"]["rows"][0]


def written(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    job = folder / "shapes.yaml"
    job.write_text(job_text(folder))
    return job


def newest_step(folder: Path) -> int:
    """Of the whole checkpoints; 0 without one."""
    found = folder.glob("runs/shapes-*/detection/*/checkpoints/*/MANIFEST.json")
    return max((int(whole.parent.name.removeprefix("step-")) for whole in found), default=0)


def until(run: Any, is_so: Callable[[], bool]) -> None:
    while not is_so():
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.02)  # looks again and again, waits for nothing else


def test_stopped_and_killed_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    job = written(tmp_path)
    first = start(job, *LONG, training=False)
    stopped(first, "epoch ", lambda: os.killpg(first.pid, signal.SIGINT))
    second = start(job, *LONG, training=False)
    until(second, lambda: newest_step(tmp_path) >= 24)
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    third = start(job, *LONG, training=False)
    until(third, lambda: len(workers_of(third)) == 2)
    # Workers outlive a killed driver for some steps: only now is what comes the third's own.
    begun_after = newest_step(tmp_path)
    until(third, lambda: newest_step(tmp_path) > begun_after)
    _, second_worker = workers_of(third)
    second_worker.kill()
    out, _ = third.communicate(timeout=RUN_TIMEOUT_S)
    assert third.returncode == 0, out
    assert "restarted at step" in out
    assert "(rank 1 failed)" in out or "(rank 0, 1 failed)" in out
    finished(written(tmp_path / "whole"))
    disturbed, whole = row_of(tmp_path), row_of(tmp_path / "whole")
    assert disturbed["steps"] == whole["steps"] == 80
    assert disturbed["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    for kind in ("box", "mask"):
        assert disturbed[kind] == whole[kind]
