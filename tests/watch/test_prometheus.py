"""A real Prometheus scrapes a real run, finds its targets where Ray says, and answers the dashboard's queries."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.run_metrics import METRICS
from tests.train.local_run import TINY

from .test_watch import RULES, queries

SECRET = "canary-5d1c-not-for-logs"
LIVE = """\
  live:
    share: 0.25
    pool_images: 32
    uses: 2
    generator:
      pipeline: {{source: "package:digits_ddpm", scheduler: DDIMScheduler, steps: 2}}
      images_per_shard: 8
      gate: {{contrast_min: {contrast_min}, tries_max: 200}}
      actors: {{min: 1, max: 1, cpus_each: 0.1}}
"""
STEPS = 400
TIMEOUT_S = 240.0


def wait_for(what: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
    """The first value of `what` that is true."""
    until = time.monotonic() + timeout_s
    while not (found := what()):
        if time.monotonic() > until:
            raise TimeoutError(what.__doc__ or "")
        time.sleep(0.5)
    return found


@contextlib.contextmanager
def running(
    *command: str | Path, log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, ended with the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            # A Ray head may wait for its processes for longer.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Prometheus:
    """Asks its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        try:
            return self._get("/-/ready") is not None
        except OSError:
            return False

    def ask(self, query: str) -> dict[str, float]:
        """Values by labels, in words."""
        answer = json.loads(self._get("/api/v1/query?" + urllib.parse.urlencode({"query": query})))
        assert answer["status"] == "success", answer
        return {
            ",".join(
                f"{name}={value}" for name, value in sorted(row["metric"].items()) if name != "__name__"
            ): float(row["value"][1])
            for row in answer["data"]["result"]
        }

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()


def job(folder: Path) -> Path:
    text = TINY.replace("  epochs: 4\n", f"  epochs: {STEPS // 5}\n  checkpoint: {{{{every_steps: 50}}}}\n")
    text = text.replace(
        "train: [{{uri: {folder}/digits/train}}]", "train: [{{uri: {folder}/digits/train, share: 0.75}}]"
    )
    text = text.replace("  window_images: 128\n", LIVE + "  window_images: 128\n")
    text = text.replace("knn: {{neigh", "knn: {{every_epochs: 10, neigh")
    file = folder / "watched.yaml"
    file.write_text(text.format(folder=folder, contrast_min=0.2))
    return file


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """Environment of a Ray cluster with a dashboard, and the file in which it lists its nodes for Prometheus."""
    head, ray = free_port(), Path(sys.executable).with_name("ray")
    temp = Path("/tmp") / f"watched-{os.getpid()}"  # short: sockets are below it
    # Processes report every second, not every ten.
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "1000",
                   "AWS_SECRET_ACCESS_KEY": SECRET}  # fmt: skip
    words = ["--head", f"--port={head}", "--num-cpus=2", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
             f"--dashboard-port={free_port()}", f"--ray-client-server-port={free_port()}", f"--temp-dir={temp}",
             "--object-store-memory=200000000", "--block"]  # fmt: skip
    try:
        with running(ray, "start", *words, log=tmp_path / "ray.log", env=environment) as node:
            targets = temp / "prom_metrics_service_discovery.json"
            wait_for(lambda: targets.is_file() or node.poll() is not None)
            assert node.poll() is None, (tmp_path / "ray.log").read_text()
            yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{head}"}, targets
    finally:
        shutil.rmtree(temp, ignore_errors=True)


@pytest.fixture
def prometheus(tmp_path: Path, cluster: tuple[dict[str, str], Path]) -> Iterator[Prometheus]:
    config, port = tmp_path / "prometheus.yml", free_port()
    config.write_text(
        json.dumps(  # which is YAML as well
            {
                "global": {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "5s"},
                "rule_files": [str(RULES)],
                "scrape_configs": [
                    {
                        "job_name": "ray",
                        "file_sd_configs": [{"files": [str(cluster[1])], "refresh_interval": "1s"}],
                    }
                ],
            }
        )
    )
    words = [
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running("prometheus", *words, log=tmp_path / "prometheus.log"):
        found = Prometheus(port)
        wait_for(found.ready)
        yield found


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus (Debian: prometheus)")
def test_prometheus_reads_a_run_and_is_told_nothing_when_it_is_gone(
    tmp_path: Path, cluster: tuple[dict[str, str], Path], prometheus: Prometheus
) -> None:
    out = tmp_path / "run.log"
    words = [
        "train.workers={min: 1, max: 1, cpus_each: 0.5}",
        "augment.actors={min: 1, max: 1, cpus_each: 0.3}",
    ]
    command = [
        sys.executable,
        "-m",
        "syn2co_ray.cli",
        "run",
        job(tmp_path),
        *words,
        "data.reader_cpus_each=0.3",
    ]
    expected = {f"ray_{metric.name}" for metric in METRICS}
    seen: dict[str, dict[str, float]] = {}
    answers: dict[str, dict[str, float]] = {}
    with running(*command, log=out, env=cluster[0]) as run:
        while run.poll() is None:
            for name in expected:
                seen[name] = prometheus.ask(name) or seen.get(name, {})
            for panel, query in queries().items():
                found = {labels: value for labels, value in prometheus.ask(query).items() if value == value}
                answers[panel] = found or answers.get(panel, {})
            time.sleep(1.0)
        assert run.returncode == 0, out.read_text()
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    assert {name for name, values in seen.items() if not values} == set()
    assert all(f"run={folder.name}" in labels for values in seen.values() for labels in values)
    assert all("framework=synby" in labels for values in seen.values() for labels in values)
    silent = {panel.split(" ", 1)[1] for panel, values in answers.items() if not values}
    assert silent <= {"Alerts A"}, silent

    (steps,), (images,) = (
        prometheus.ask(f"ray_syn2co_{name}_total").values() for name in ("steps", "images")
    )
    assert steps == STEPS
    assert images == STEPS * 32
    (rate,) = answers[next(panel for panel in answers if panel.endswith("Images per second A"))].values()
    assert 1 < rate < 10_000
    assert set(seen["ray_syn2co_restarts_total"].values()) == {0.0}
    assert all(0 < value <= 1 for value in seen["ray_syn2co_knn_top1_ratio"].values())
    assert prometheus.ask('ALERTS{alertname="Syn2coTrainingStalled"}') == {}

    def gone() -> bool:
        """Gauges of a run that has ended are no longer exported."""
        return not prometheus.ask("ray_syn2co_progress_timestamp_seconds")

    wait_for(gone, 60.0)

    logs = {path.name.split("-2")[0]: path.read_text() for path in (folder / "logs").glob("*.jsonl")}
    assert set(logs) == {"driver", "rank-00000"}
    said = [json.loads(line) for line in logs["rank-00000"].splitlines()]
    assert {line["run"] for line in said} == {folder.name}
    assert any(line["step"] and "checkpoint of step" in line["message"] for line in said)
    assert any("report:" in json.loads(line)["message"] for line in logs["driver"].splitlines())
    left = [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert left == []
