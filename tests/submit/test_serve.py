"""`syn2co serve` before it listens: what is missing, what has no room; and, slow, to its end by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path

import pytest
import ray
from safetensors.torch import save_file

from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.spec.errors import ResourceError, SpecError, Syn2coError
from syn2co_ray.spec.serving import ServeSpec, serve_spec
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.weights import WeightsSpec
from syn2co_ray.submit.cluster import Cluster
from syn2co_ray.submit.serve import check_head_listens, check_installed, with_room

WEIGHTS = WeightsSpec(random_seed=0, backbone="resnet18", image_size=32)


def spec(**values: object) -> ServeSpec:
    return serve_spec({"weights": WEIGHTS, **values})


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    monkeypatch.delattr(ray, "serve", raising=False)
    with pytest.raises(Syn2coError, match=r"pip install 'syn2co_ray\[serve\]'"):
        check_installed()


def test_a_gpu_is_taken_where_there_is_one() -> None:
    assert with_room(spec(), Cluster(2.0, (0.0,), True)).replicas.gpus_each == 0.0
    assert with_room(spec(), Cluster(2.0, (0.0, 1.0), True)).replicas.gpus_each == 1.0
    assert with_room(spec(replicas={"gpus_each": 0.5}), Cluster(2.0, (1.0,), True)).replicas.gpus_each == 0.5
    halves = spec(replicas={"min": 2, "max": 2, "cpus_each": 0.1})
    assert with_room(halves, Cluster(2.0, (0.5, 1.0, 0.5), True)).replicas.gpus_each == 0.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicas": {"min": 3, "max": 3}}, "3 CPUs for 3 replicas; allowed: 2"),
        (
            {"replicas": {"min": 2, "max": 2}, "neighbours": "x"},
            "3 CPUs for 2 replicas and the search; allowed: 2",
        ),
        (
            {"replicas": {"gpus_each": 2.0}},
            r"1 replicas of 2 GPUs; allowed: 2 GPUs \(1 \+ 1 on its nodes\)",
        ),
        (
            {"replicas": {"min": 3, "max": 3, "cpus_each": 0.1, "gpus_each": 0.6}},
            "3 replicas of 0.6 GPUs; allowed: 2 GPUs",
        ),
    ],
)
def test_what_can_never_be_scheduled_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ResourceError, match=words):
        with_room(spec(**values), Cluster(2.0, (1.0, 1.0), True))


def test_tenths_of_a_cpu_add_up() -> None:
    with_room(spec(replicas={"min": 3, "max": 3, "cpus_each": 0.1}), Cluster(0.3, (0.0,), True))


@pytest.mark.ray
def test_a_port_that_is_taken_on_the_head_is_named(ray_cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SpecError, match=f"--port: on the cluster's head, 127.0.0.1:{port}: .*in use"):
            check_head_listens("127.0.0.1", port)
    check_head_listens("127.0.0.1", port)


def until_it_says(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"it ended with {process.wait()} and did not say {words!r}")


@pytest.mark.slow
@pytest.mark.ray
def test_ctrl_c_answers_what_is_in_flight_and_ends_with_0(tmp_path: Path) -> None:
    source = load_backbone(WEIGHTS, ObjectStoreSpec())
    save_file(source.network.state_dict(), tmp_path / "net.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", "net.safetensors", "--backbone", "resnet18", "--image-size", "32", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "syn2co_ray.cli", *words],
        cwd=tmp_path,
        env=os.environ | {"SYN2CO_SERVE_TOKEN": "0123456789abcdef"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        until_it_says(process, "weights:")
        # Replicas are sent what was loaded: files may go, as old checkpoints of a run do.
        (tmp_path / "net.safetensors").unlink()
        assert f"http://127.0.0.1:{port}/" in until_it_says(process, "listening")
        with socket.create_connection(("127.0.0.1", port), timeout=120) as half_sent:
            head = (
                "POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/bmp\r\nContent-Length: 4\r\n"
            )
            half_sent.sendall(f"{head}Authorization: Bearer 0123456789abcdef\r\n\r\n".encode() + b"BM?")
            until(lambda: health(port)["requests_held"] == 1)
            # As a terminal does it: every process of the group gets it.
            os.killpg(process.pid, signal.SIGINT)
            until_it_says(process, "stopping: requests in flight are answered")
            half_sent.sendall(b"?")
            answer = HTTPResponse(half_sent)
            answer.begin()
            # Head and body may come apart.
            body = answer.read()
        assert answer.status == 422
        assert b"BMP" in body
        assert "stopped" in until_it_says(process, "stopped")
        assert process.wait(120) == 0
    finally:
        if process.poll() is None:
            process.kill()


def health(port: int) -> dict[str, object]:
    url, token = f"http://127.0.0.1:{port}/health", {"Authorization": "Bearer 0123456789abcdef"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=token), timeout=60) as answer:
        return json.load(answer)


def until(true: Callable[[], bool]) -> None:
    again = threading.Event()
    for _ in range(600):
        if true():
            return
        again.wait(0.1)
    raise TimeoutError(true)
