"""Trackers: what reaches them, that they never hold a training up, and that a resumed run goes on in the same one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.spec.job import TrainingSpec
from syn2co_ray.submit import trackers as trackers_module
from syn2co_ray.submit.tracker_sinks import Known, Row, flat
from syn2co_ray.submit.trackers import Trackers, merged, step_values
from syn2co_ray.train.run_folder import RunFolder, open_run
from tests.train.local_run import local_loop, tiny_job

RESULTS = {
    "status": "finished",
    "steps": 20,
    "rows": [
        {"features": "trained encoder", "knn_top1_percent": {10: 81.0}, "linear_top1_percent": 90.0},
        {"features": "raw pixels", "knn_top1_percent": {10: 70.0}},
    ],
}


def step(number: int, **fields: Any) -> dict[str, Any]:
    return {"step": number, "epoch": 0, "loss": 10.0 - number, "skipped": False, "stats": {}} | fields


def seen(number: int, *evaluations: dict[str, Any]) -> dict[str, Any]:
    return {"progress": step(number), "evaluations": list(evaluations)}


def evaluation(number: int, percent: float) -> dict[str, Any]:
    return {"step": number, "epoch": 1, "knn": {"10": percent}}


def opened(folder: Path, *overrides: str) -> tuple[TrainingSpec, RunFolder]:
    job = tiny_job(folder, *overrides)
    return job, open_run(job)


class MemorySink:
    """Keeps rows; fails or hangs when told to."""

    name = "memory"

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.known: list[Known | None] = []
        self.status = ""
        self.fails = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.got = threading.Condition()

    def open(self, known: Known | None) -> Known:
        self.known.append(known)
        return known or Known("run-1", -1)

    def send(self, rows) -> None:
        self.may_go_on.wait()
        if self.fails:
            self.fails -= 1
            raise ConnectionError("no route to host\nsecond line")
        with self.got:
            self.rows += rows
            self.got.notify_all()

    def close(self, status: str) -> None:
        self.status = status

    def wait_for(self, rows: int) -> None:
        with self.got:
            assert self.got.wait_for(lambda: len(self.rows) >= rows, timeout=30)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    found = MemorySink()
    monkeypatch.setattr(trackers_module, "sinks_of", lambda job, store: [found])
    monkeypatch.setattr(trackers_module, "FLUSH_EVERY_S", 0.01)
    monkeypatch.setattr(trackers_module, "TRY_AGAIN_AFTER_S", (0.01, 0.02))
    return found


def test_steps_evaluations_and_the_end_reach_a_tracker_once(tmp_path, sink):
    job, run = opened(tmp_path)
    lines: list[str] = []
    with Trackers(job, run, lines.append) as trackers:
        for number in (1, 1, 2, 5):
            trackers.see(seen(number))
        # Of a step that has gone by, and again after workers had to start again.
        trackers.see(seen(5, evaluation(4, 50.0)))
        trackers.see(seen(5, evaluation(4, 50.0), evaluation(4, 50.0)))
        trackers.finished(RESULTS)
    by_step = {row.step: row.values for row in merged(sink.rows)}
    assert list(by_step) == [1, 2, 4, 5, 21]
    assert by_step[4] == {"knn/10": 50.0}
    assert by_step[5]["loss"] == 5.0
    assert by_step[21] == {
        "final/trained_encoder/knn_10": 81.0,
        "final/trained_encoder/linear": 90.0,
        "final/raw_pixels/knn_10": 70.0,
    }
    assert (sink.status, lines) == ("finished", [])
    assert run.read_json("track.json") == {"memory": {"id": "run-1", "step": 21}}


def test_a_resumed_run_goes_on_in_the_same_one_after_its_last_step(tmp_path, sink):
    job, run = opened(tmp_path)
    for steps in ((1, 2, 3), (2, 3, 4)):
        with Trackers(job, run, pytest.fail) as trackers:
            for number in steps:
                trackers.see(seen(number))
    assert sink.known == [None, Known("run-1", 3)]
    assert [row.step for row in sink.rows] == [1, 2, 3, 4]
    assert sink.status == "failed"  # nobody said that it had ended


def test_a_tracker_that_fails_is_told_of_once_and_gets_everything_later(tmp_path, sink):
    job, run = opened(tmp_path)
    lines: list[str] = []
    sink.fails = 3
    with Trackers(job, run, lines.append) as trackers:
        for number in range(1, 6):
            trackers.see(seen(number))
        sink.wait_for(5)
    assert [row.step for row in sink.rows] == [1, 2, 3, 4, 5]
    assert lines == [
        "warning: tracker memory does not answer, training goes on: ConnectionError: no route to host"
    ]


def test_a_tracker_that_hangs_holds_nothing_up_and_what_is_lost_is_counted(tmp_path, sink, monkeypatch):
    monkeypatch.setattr(trackers_module, "ROWS_MAX", 100)
    monkeypatch.setattr(trackers_module, "CLOSE_S", 0.1)
    job, run = opened(tmp_path)
    lines: list[str] = []
    sink.may_go_on.clear()
    started = time.monotonic()
    with Trackers(job, run, lines.append) as trackers:
        for number in range(1, 2001):
            trackers.see(seen(number))
    assert time.monotonic() - started < 5
    assert lines == ["tracker memory: 2000 rows did not reach it; metrics/ has them all"]
    sink.may_go_on.set()


def test_no_section_no_thread_and_no_file(tmp_path):
    job, run = opened(tmp_path)
    before = threading.active_count()
    with Trackers(job, run, pytest.fail) as trackers:
        assert threading.active_count() == before
        trackers.see(seen(1))
    assert run.read_json("track.json") is None


def test_what_is_no_number_is_left_out():
    row = step(3, loss=float("nan"), gradient_norm=None, stats={"embedding/rankme": 7.0}, keys_digest=5)
    assert step_values(row) == {"epoch": 0.0, "embedding/rankme": 7.0, "skipped": 0.0}
    values = {"a": {"b": 1, "c": None}, "d": [{"e": 2}], "f": [3, 4]}
    assert flat(values) == {"a.b": 1, "d.0.e": 2, "f": [3, 4]}


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(s.step, s.value) for s in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_back_what_a_training_did_and_each_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    job, run = opened(tmp_path, "track={tensorboard: true}")
    with Trackers(job, run, pytest.fail) as trackers:
        for number in (1, 2, 3, 4):
            trackers.see(seen(number))
        trackers.see(seen(4, evaluation(4, 50.0)))
    # As a killed driver leaves it: events up to step 4, its note older.
    run.write_json("track.json", {"tensorboard": {"id": "tensorboard", "step": 2}})
    with Trackers(job, run, pytest.fail) as trackers:
        for number in (2, 3, 4, 5):
            trackers.see(seen(number))
    (folder,) = (tmp_path / "runs").glob("*/tensorboard")
    found = tensorboard_scalars(folder)
    assert found["loss"] == [(number, 10.0 - number) for number in (1, 2, 3, 4, 5)]
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("scheme", ["memory", None], ids=["memory", "place"])
def test_tensorboard_events_of_a_run_are_where_its_folder_is(scheme, place, tmp_path):
    pytest.importorskip("tensorboard")
    from syn2co_ray.spec.source import ObjectStoreSpec
    from syn2co_ray.storage import list_files, open_store, read_bytes
    from syn2co_ray.submit.tracker_sinks import TensorBoardSink

    store = open_store(f"memory://{tmp_path.name}/run" if scheme else place, ObjectStoreSpec())
    sink = TensorBoardSink(store)
    sink.open(None)
    sink.send([Row(1, 0.0, {"loss": 2.0})])
    sink.close("finished")
    (file,) = list_files(store.child("tensorboard"))
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / file.path).write_bytes(read_bytes(store.child("tensorboard"), file.path))
    assert tensorboard_scalars(tmp_path / "read") == {"loss": [(1, 2.0)]}


def trained(job: TrainingSpec, run: RunFolder, tell: Callable[[str], None], at_step=None) -> list[dict]:
    """A real training in this process whose rows go to the trackers; its rows."""
    from syn2co_ray.submit.prepare import prepare_run

    loop = local_loop(prepare_run(job, lambda text: None))
    rows: list[dict] = []
    look: dict[str, Any] = {"progress": {}, "evaluations": []}
    with Trackers(job, run, tell) as trackers:

        def show(row: dict) -> None:
            if "step" in row and "loss" in row:
                rows.append(row)
                look["progress"] = row
                if at_step:
                    at_step(row["step"])
            trackers.see(look)

        loop.context.show = show
        loop.run_to_end()
        trackers.finished({**RESULTS, "steps": len(rows)})
    return rows


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[subprocess.Popen]:
    """A real server on the loopback, its data in SQLite."""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--default-artifact-root", str(folder / "artifacts")]
    with open(folder / "server.log", "ab") as log:
        server = subprocess.Popen(
            [sys.executable, *command], stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            until = time.monotonic() + 180
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    assert server.poll() is None, (folder / "server.log").read_text()
                    assert time.monotonic() < until, (folder / "server.log").read_text()
                    time.sleep(0.2)
            yield server
        finally:
            end(server)


def end(server: subprocess.Popen) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_mlflow_has_every_step_and_a_server_that_dies_stops_nothing(tmp_path, monkeypatch):
    pytest.importorskip("mlflow.server", reason="needs the package mlflow")
    monkeypatch.setattr(trackers_module, "CLOSE_S", 60.0)
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    job, run = opened(tmp_path, f"track={{mlflow: {{tracking_uri: '{uri}', experiment: digits}}}}")
    with mlflow_server(tmp_path, port):
        rows = trained(job, run, pytest.fail)
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
        assert found.info.status == "FINISHED"
        assert found.info.run_id == run.read_json("track.json")["mlflow"]["id"]
        assert found.data.params["method.negatives.hardest"] == "16"
        losses = client.get_metric_history(found.info.run_id, "loss")
        assert [(m.step, m.value) for m in losses] == [(row["step"], row["loss"]) for row in rows]
        # The same run in a later command: it goes on in the same one, and nothing comes twice.
        with Trackers(job, run, pytest.fail) as trackers:
            for number in (len(rows), len(rows) + 1):
                trackers.see(seen(number))
        steps = [m.step for m in client.get_metric_history(found.info.run_id, "loss")]
        assert steps == [*(row["step"] for row in rows), len(rows) + 1]

    # Another training, whose server is killed at its fifth step.
    other, folder = opened(tmp_path, f"track={{mlflow: {{tracking_uri: '{uri}'}}}}", "seed=4")
    monkeypatch.setattr(trackers_module, "CLOSE_S", 1.0)
    lines: list[str] = []
    with mlflow_server(tmp_path, port) as server:
        after = trained(other, folder, lines.append, lambda step: step == 5 and end(server))
    assert len(after) == len(rows)
    assert sum("does not answer, training goes on" in line for line in lines) <= 1
    assert "did not reach it; metrics/ has them all" in lines[-1]


@pytest.mark.slow
def test_wandb_offline_keeps_a_run_in_the_folder_under_one_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setattr(trackers_module, "CLOSE_S", 120.0)  # its service starts slowly on a busy machine
    job, run = opened(tmp_path, "track={wandb: {project: digits, mode: offline}}")
    for steps in ((1, 2, 3), (3, 4)):
        with Trackers(job, run, pytest.fail) as trackers:
            for number in steps:
                trackers.see(seen(number))
    run_id = run.read_json("track.json")["wandb"]["id"]
    (folder,) = (tmp_path / "runs").glob("*/wandb")
    files = sorted(folder.glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert [wandb_steps(file) for file in files] == [[1, 2, 3], [4]]


def wandb_steps(file: Path) -> list[int]:
    """Steps of the history in an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    steps = []
    for data in log_records(file.read_bytes()[7:], first=7):  # after its own header
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            values = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            if "loss" in values:
                steps.append(int(json.loads(values["_step"])))
    return steps


def log_records(data: bytes, first: int) -> Iterator[bytes]:
    """Records of LevelDB's log format: blocks of 32 KiB, parts with checksum, length and type."""
    block, full, last = 32768, 1, 4
    at, parts = 0, b""
    while at + 7 <= len(data):
        if block - (at + first) % block < 7:
            at += block - (at + first) % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (full, last):
            yield parts
            parts = b""
