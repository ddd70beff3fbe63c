"""`syn2co run` as a user types it: two workers, a stop, a resume with one worker, the results and the report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syn2co_ray.spec.load import load_job
from syn2co_ray.submit.verify_resume import short
from tests.train.local_run import TINY, prepared

JOBS = Path(__file__).resolve().parents[2] / "jobs"

RUN_TIMEOUT_S = 400


def write_job(folder: Path) -> Path:
    """The tiny job with 300 steps instead of 20."""
    job = folder / "tiny.yaml"
    job.write_text(TINY.format(folder=folder).replace("  epochs: 4\n", "  epochs: 60\n"))
    return job


def start(
    job: Path, *overrides: str, environment: dict[str, str] | None = None, training: bool = True
) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a shell would start it."""
    small = ["data.reader_cpus_each=0.5", "augment.actors={min: 1, max: 1, cpus_each: 0.5}"]
    words = [*(small if training else ()), *overrides]
    return subprocess.Popen(
        [sys.executable, "-m", "syn2co_ray.cli", "run", str(job), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )


def workers_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Ray Train's processes of a run under way."""
    children = psutil.Process(run.pid).children(recursive=True)
    return [process for process in children if "RayTrainWorker" in " ".join(process.cmdline())]


def only_run(folder: Path) -> Path:
    (run,) = (folder / "runs").glob("tiny-*")
    return run


def stopped(run: subprocess.Popen[str], when: str, stop: Callable[[], None]) -> str:
    """Output of a run that is stopped when a line starts with `when`; it must say how to go on."""
    lines = []
    for line in run.stdout:
        lines.append(line)
        if line.startswith(when):
            stop()
    out = "".join(lines)
    assert run.wait(RUN_TIMEOUT_S) == 130, out
    assert "run the same command to resume" in lines[-1]
    return out


def results_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


@pytest.mark.ray
def test_a_run_stopped_by_ctrl_c_resumes_with_another_worker_count_and_finishes(tmp_path):
    job = write_job(tmp_path)
    first = start(job, "train.workers={min: 2, max: 2, cpus_each: 0.5}")
    # What a terminal does at Ctrl-C: the signal goes to the whole group.
    stopped(first, "epoch 1/60", lambda: os.killpg(first.pid, signal.SIGINT))
    run = only_run(tmp_path)
    interrupted = results_of(run)
    assert interrupted["status"] == "interrupted"
    assert 0 < interrupted["steps"] < 300
    assert (run / f"checkpoints/step-{interrupted['steps']:09d}/MANIFEST.json").is_file()
    assert (run / "report.html").is_file()

    second = start(job, "train.workers={min: 1, max: 1, cpus_each: 0.5}")
    out, _ = second.communicate(timeout=RUN_TIMEOUT_S)
    assert second.returncode == 0, out
    assert f"resumed from step {interrupted['steps']}" in out
    results = results_of(run)
    assert results["status"] == "finished"
    assert results["steps"] == 300
    assert results["resumed_from_steps"] == [interrupted["steps"]]
    assert [row["features"] for row in results["rows"]] == ["trained encoder", "random encoder", "raw pixels"]
    assert results["rows"][2]["knn_top1_percent"]["5"] > 95
    assert all(0 < row["linear_top1_percent"] <= 100 for row in results["rows"])
    steps = [
        json.loads(line)["step"]
        for path in sorted(run.glob("metrics/steps-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert steps == list(range(1, 301))
    page = (run / "report.html").read_text()
    assert "raw pixels" in page
    assert "data:image/png;base64," in page
    assert out.splitlines()[-1] == f"report: {run / 'report.html'}"
    assert "images/s, data wait" in out
    assert f"what bounds it since the last start: {results['bound']['text']}" in out


@pytest.mark.slow
@pytest.mark.ray
def test_a_scheduler_stops_the_command_alone_and_gets_a_checkpoint(tmp_path):
    run = start(write_job(tmp_path), "train.workers={min: 1, max: 1, cpus_each: 0.5}")
    stopped(run, "epoch ", run.terminate)
    folder = only_run(tmp_path)
    results = results_of(folder)
    assert results["status"] == "interrupted"
    assert 0 < results["steps"] < 300
    assert (folder / f"checkpoints/step-{results['steps']:09d}/MANIFEST.json").is_file()


@pytest.mark.ray
def test_broken_data_ends_the_run_with_one_message_and_exit_3(tmp_path):
    job = write_job(tmp_path)
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(80):
        (folder / f"{number:03d}.jpg").write_bytes(b"not an image")
    run = start(
        job, f"data.train.0.uri={folder}", "data.eval=null", "train.workers={min: 1, max: 1, cpus_each: 0.5}"
    )
    out, _ = run.communicate(timeout=RUN_TIMEOUT_S)
    assert run.returncode == 3, out
    assert out.count("none of 64 images drawn from it can be decoded") == 1
    assert "Traceback" not in out


def eval_shards_with_a_label_missing_in_the_second(folder: Path) -> Path:
    """Two, of which each of two ranks reads one; a look at the first records does not see what is missing."""
    table = pa.concat_tables([pq.read_table(file) for file in (folder / "digits/eval").glob("*.parquet")])
    labels = table["label"].to_pylist()
    labels[-1] = None
    table = table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels))
    shards = folder / "eval"
    shards.mkdir()
    half = table.num_rows // 2
    pq.write_table(table.slice(0, half), shards / "a.parquet")
    pq.write_table(table.slice(half), shards / "b.parquet")
    return shards


@pytest.mark.ray
def test_what_one_worker_alone_meets_ends_the_run_with_its_message(tmp_path):
    """Not with the others' words, which wait for it, and not after their patience of ten minutes."""
    prepared(tmp_path)
    run = start(
        write_job(tmp_path),
        f"data.eval.uri={eval_shards_with_a_label_missing_in_the_second(tmp_path)}",
        "train.workers={min: 2, max: 2, cpus_each: 0.5}",
        "evaluate.knn.every_epochs=1",
    )
    out, _ = run.communicate(timeout=RUN_TIMEOUT_S)
    assert run.returncode == 3, out
    assert out.count("has no label") == 1
    assert "has no label" in out.splitlines()[-1]
    assert "Traceback" not in out
    assert "start again" not in out


def plan(job: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "syn2co_ray.cli", "plan", str(job), *overrides],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )


@pytest.mark.ray
def test_plan_shows_the_run_and_refuses_what_cannot_be_scheduled(tmp_path):
    prepared(tmp_path)  # its digits serve here
    job = write_job(tmp_path)
    shown = plan(
        job,
        "train.workers={min: 1, max: 2, cpus_each: 0.001}",
        "augment.actors={min: 1, max: 3, cpus_each: 0.001}",
        "data.reader_cpus_each=0.001",
    )
    assert shown.returncode == 0, shown.stderr
    assert "images_per_step_global: 32" in shown.stdout
    assert "cluster: this machine, 1 node(s)" in shown.stdout
    assert "asked: 0.004 CPUs, 0 GPUs for 2 workers, 1 to 3 augmentation actors, readers" in shown.stdout
    assert "worker counts allowed: 1, 2" in shown.stdout
    assert "1,408 images, 6 files" in shown.stdout
    assert "steps: 5 an epoch x 60 epochs = 300 of 32 images (16 a worker)" in shown.stdout
    assert "windows: 120 of 4 steps (128 images, about " in shown.stdout
    assert "245.8 kB of views through the object store" in shown.stdout
    assert "augmentation: actors on CPUs, at most about " in shown.stdout
    assert "images/s: steps shorter than " in shown.stdout
    assert " advised, at most about " in shown.stdout
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/checkpoints"))

    refused = plan(job, "train.workers={min: 32, max: 32, cpus_each: 64}")
    assert refused.returncode == 5
    assert "ask for 2049.5 CPUs" in refused.stderr
    assert "images_per_step_global: 32" in refused.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_worker_costs_no_more_than_the_steps_since_the_checkpoint(tmp_path):
    job = write_job(tmp_path)
    words = ("train.workers={min: 2, max: 2, cpus_each: 0.5}", "train.checkpoint.every_steps=10")
    first = start(job, *words)
    lines = []
    killed = False
    for line in first.stdout:
        lines.append(line)
        if line.startswith("epoch 1/60") and not killed:
            _, second_worker = workers_of(first)
            second_worker.kill()
            killed = True
    assert first.wait(RUN_TIMEOUT_S) == 0, "".join(lines)
    run = only_run(tmp_path)
    results = results_of(run)
    assert results["status"] == "finished"
    assert results["steps"] == 300

    # As if the driver had died between the last checkpoint and the results: only they are made again.
    (run / "results.json").unlink()
    second = start(job, *words)
    out, _ = second.communicate(timeout=RUN_TIMEOUT_S)
    assert second.returncode == 0, out
    again = results_of(run)
    assert again["rows"] == results["rows"]
    assert again["images_per_s"] == results["images_per_s"] > 0

    third = start(job, *words)
    out, _ = third.communicate(timeout=RUN_TIMEOUT_S)
    assert third.returncode == 0
    assert "this run is finished" in out


def test_verify_resume_leaves_a_published_generator_alone():
    job = load_job(JOBS / "digits_ddpm.yaml")
    cut = short(job, 50, "killed")
    assert cut.into != job.into
    assert cut.into.startswith(cut.storage)


@pytest.mark.slow
@pytest.mark.ray
def test_verify_resume_finds_a_run_equal_whose_worker_was_killed(tmp_path):
    job = write_job(tmp_path)
    command = [sys.executable, "-m", "syn2co_ray.cli", "verify-resume", str(job), "--steps", "400"]
    words = [
        "train.workers={min: 2, max: 2, cpus_each: 0.5}",
        "augment.actors={min: 1, max: 1, cpus_each: 0.5}",
    ]
    done = subprocess.run(
        [*command, *words, "data.reader_cpus_each=0.5"], capture_output=True, text=True, timeout=RUN_TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "keys: the same in all 400 steps" in done.stdout
    assert "loss: bit for bit equal" in done.stdout
    assert "weights and queues: bit for bit equal" in done.stdout
