"""`syn2co submit` and its relatives against a Ray cluster of two nodes with a token, as `cluster up` starts it.

Somebody else's Ray runs beside it. Secrets in the environment of nodes and clients are looked for in all that is left.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import syn2co_ray
from syn2co_ray.submit.local_cluster import recorded_cluster
from syn2co_ray.submit.local_node import free_port

from ..ray_hosts import RAY, wait_for
from .test_object_store import command_lines
from .test_run import only_run, results_of, write_job

pytestmark = [pytest.mark.slow, pytest.mark.ray]

TIMEOUT_S = 600
SMALL = [
    "data.reader_cpus_each=0.5",
    "augment.actors={min: 1, max: 1, cpus_each: 0.5}",
    "train.workers={min: 2, max: 2, cpus_each: 0.5}",
]
TOKENS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
CANARIES = {
    "HF_TOKEN": "hf_canary5e1f6b3a9d",
    "WANDB_API_KEY": "canary0d7c41e2f8wandb",
    "MLFLOW_TRACKING_PASSWORD": "canary/93ab+not=to&be-left",
}
STOP_S = 6
"""Longer than Ray's own 3 s from SIGTERM to SIGKILL."""


class Client:
    """The command with the environment of somebody who uses the cluster; no output may hold one of its secrets."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.secrets = dict(CANARIES)

    def secrets_in(self, data: bytes) -> list[str]:
        """Names of the secrets that stand in it."""
        return [name for name, value in self.secrets.items() if value.encode() in data]

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """Start a command; `more` are further variables."""
        return subprocess.Popen(
            [sys.executable, "-m", "syn2co_ray.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**self.environment, **more},
            cwd=self.environment[
                "XDG_STATE_HOME"
            ],  # `-m` would find the code of a folder before PYTHONPATH's
        )

    def __call__(self, *words: str, **more: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        command = self.start(*words, **more)
        out, _ = command.communicate(timeout=TIMEOUT_S)
        assert not self.secrets_in(out.encode())
        return command.returncode, out


@pytest.fixture(scope="module")
def other_ray() -> Iterator[subprocess.Popen[bytes]]:
    """A Ray of somebody else on this machine, plainly started; it has to outlive `cluster down`."""
    temp = Path("/tmp") / f"other-{os.getpid()}"  # short: sockets are below it
    command = [RAY, "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=0", "--include-dashboard=false",
               "--node-ip-address=127.0.0.1", f"--ray-client-server-port={free_port()}", f"--temp-dir={temp}",
               f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=80000000"]  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", *TOKENS)}
    mode = {"RAY_AUTH_MODE": "disabled", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    nowhere = subprocess.DEVNULL
    started = subprocess.Popen(
        command, env=kept | mode, stdout=nowhere, stderr=nowhere, start_new_session=True
    )
    try:
        wait_for(lambda: {"gcs_server", "raylet"} <= names_below(started), 120)
        yield started
        assert {"gcs_server", "raylet"} <= names_below(started)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGTERM)
            started.wait(60)
        shutil.rmtree(temp, ignore_errors=True)


def names_below(process: subprocess.Popen[bytes]) -> set[str]:
    """Of the programs that a process has started and that run."""
    assert process.poll() is None
    names = set()
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            names.add(child.name())
    return names


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, other_ray: subprocess.Popen[bytes]) -> Iterator[Client]:
    source = str(Path(syn2co_ray.__file__).parents[1])
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", *TOKENS)}
    state = str(tmp_path_factory.mktemp("state"))
    client = Client({**kept, **CANARIES, "XDG_STATE_HOME": state, "PYTHONPATH": source})
    try:
        code, out = client("cluster", "up", "--nodes", "2", "--cpus-each", "2")
        assert code == 0, out
        exports = [line.removeprefix("export ") for line in out.splitlines() if line.startswith("export ")]
        client.environment |= dict(line.split("=", 1) for line in exports)
        client.secrets["RAY_AUTH_TOKEN"] = Path(client.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        yield client
    finally:
        code, out = client("cluster", "down")
        assert "2 nodes ended" in out


def submitted(out: str) -> str:
    """Id of the job in the output of `submit`."""
    (name,) = [line.split()[1] for line in out.splitlines() if line.startswith("submitted:")]
    return name


def read_until(command: subprocess.Popen[str], start: str) -> str:
    """Output of a command up to the first line that begins so."""
    lines = []
    for line in command.stdout:
        lines.append(line)
        if line.startswith(start):
            return "".join(lines)
    raise AssertionError("".join(lines))


def copied_package(folder: Path) -> Path:
    """A copy of this package, to be changed and sent."""
    return Path(shutil.copytree(Path(syn2co_ray.__file__).parent, folder / "tree/syn2co_ray"))


def test_dashboard_and_job_server_listen_on_loopback_alone(client, monkeypatch):
    """Ray's other ports listen on every address of the machine, and ask for the token."""
    monkeypatch.setenv("XDG_STATE_HOME", client.environment["XDG_STATE_HOME"])
    cluster = recorded_cluster()
    pids: set[int] = set()
    for process in (recorded.found() for node in cluster.nodes for recorded in node):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process is not None:  # else it has ended since it was written down
                pids |= {process.pid, *(child.pid for child in process.children(recursive=True))}
    sockets = [
        socket.laddr
        for socket in psutil.net_connections("tcp")
        if socket.pid in pids and socket.status == psutil.CONN_LISTEN
    ]
    assert {cluster.port, cluster.dashboard_port} <= {address.port for address in sockets}
    of_dashboard = [address.ip for address in sockets if address.port == cluster.dashboard_port]
    assert of_dashboard
    assert all(is_loopback(ip) for ip in of_dashboard)


def is_loopback(ip: str) -> bool:
    """Also of IPv4's addresses as IPv6 writes them."""
    address = ipaddress.ip_address(ip)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_other_code_is_refused_or_sent_along_and_the_job_is_followed_to_its_end(client, tmp_path):
    job = str(write_job(tmp_path))
    changed = copied_package(tmp_path)
    (changed / "added.py").write_text('"""Makes the code another one."""\n')
    here = {"PYTHONPATH": str(changed.parent)}
    code, out = client("submit", job, *SMALL, "train.epochs=2", **here)
    assert code == 5, out
    assert "submit with --working-tree" in out
    assert client("list")[1] == "no jobs\n"

    here["RAY_AUTH_TOKEN"] = client.secrets["RAY_AUTH_TOKEN"]
    command = client.start("submit", job, *SMALL, "train.epochs=2", "--working-tree", "--wait", **here)
    out = ""
    for line in command.stdout:
        out += line
        assert not [words for words in command_lines() if client.secrets_in(words)]
    assert command.wait(60) == 0, out
    assert not client.secrets_in(out.encode())
    assert "cluster: 2 node(s), 4 CPUs, 0 GPUs" in out
    assert "asked by tiny: 2 CPUs and 0 GPUs for 2 workers" in out
    assert results_of(only_run(tmp_path))["status"] == "finished"
    name = submitted(out)
    assert out.splitlines()[-1] == f"{name} is done"
    code, out = client("status", name)
    assert (code, out.split()[1]) == (0, "SUCCEEDED")
    code, out = client("logs", name)
    assert code == 0
    assert "ended with exit code 0" in out
    left_without_secrets(client, tmp_path)


def left_without_secrets(client: Client, folder: Path) -> None:
    """Look through Ray's session, the cluster's record and a folder of jobs and runs, but for the token's own file."""
    token_file = Path(client.environment["RAY_AUTH_TOKEN_PATH"])
    places = (token_file.parent, Path(client.environment["XDG_STATE_HOME"]), folder)
    looked_at, found = set(), []
    for file in (
        Path(above, name) for place in places for above, _, names in os.walk(place) for name in names
    ):
        with contextlib.suppress(FileNotFoundError):  # Ray works on meanwhile
            if file.is_file() and file != token_file:
                looked_at.add(file.name)
                found += [(file, name) for name in client.secrets_in(file.read_bytes())]
    assert {"raylet.out", "cluster.json", "results.json"} <= looked_at
    assert not found


def slow_to_stop(folder: Path) -> dict[str, str]:
    """Where a copy of this package is whose workers need some time before they publish what they are stopped with."""
    package = copied_package(folder)
    file, before = package / "train/loop.py", "            if wish is not Wish.GO_ON:\n"
    text = file.read_text()
    assert text.count(before) == 1
    slow = f"            if wish is Wish.STOP:\n                time.sleep({STOP_S})\n"
    file.write_text(text.replace(before, slow + before))
    return {"PYTHONPATH": str(package.parent)}


def test_ctrl_c_of_the_client_leaves_the_job_stop_publishes_a_checkpoint_and_the_same_command_resumes(
    client, tmp_path
):
    slow = slow_to_stop(tmp_path)
    words = (
        "submit",
        str(write_job(tmp_path)),
        *SMALL,
        "train.epochs=40",
        "data.eval=null",
        "--working-tree",
        "--wait",
    )
    following = client.start(*words, **slow)
    out = read_until(following, "epoch 1/40")
    name = submitted(out)
    following.send_signal(signal.SIGINT)
    rest, _ = following.communicate(timeout=60)
    assert following.returncode == 130, rest
    assert f"{name} goes on; follow it again: syn2co logs -f {name}" in rest
    code, out = client(*words, **slow)
    assert code == 5
    assert f"{name} is at it (RUNNING)" in out

    stopping = client.start("stop", name, PYTHONUNBUFFERED="1")
    read_until(stopping, f"{name} was asked to stop")
    asked_at = time.monotonic()
    out, _ = stopping.communicate(timeout=TIMEOUT_S)
    assert stopping.returncode == 0, out
    assert time.monotonic() - asked_at > STOP_S - 1
    assert f"{name} was stopped; next: syn2co submit" in out
    assert client("status", name)[0] == 130
    assert "ended with exit code 130" in client("logs", name)[1]
    run = only_run(tmp_path)
    stopped = results_of(run)
    assert stopped["status"] == "interrupted"
    assert 0 < stopped["steps"] < 40 * 5
    assert (run / f"checkpoints/step-{stopped['steps']:09d}/MANIFEST.json").is_file()

    code, out = client(*words, **slow)
    assert code == 0, out
    assert f"resumed from step {stopped['steps']}" in out
    finished = results_of(run)
    assert (finished["status"], finished["resumed_from_steps"]) == ("finished", [stopped["steps"]])


def test_jobs_that_fail_exit_as_run_does(client, tmp_path):
    job = str(write_job(tmp_path))
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(80):
        (folder / f"{number:03d}.jpg").write_bytes(b"not an image")
    code, out = client("submit", job, *SMALL, f"data.train.0.uri={folder}", "data.eval=null", "--wait")
    assert code == 3, out
    assert "can be decoded" in out
    exploding = ["train.optimizer.learning_rate_base=1e30", "train.nonfinite_steps_max=2", "data.eval=null"]
    code, out = client("submit", job, *SMALL, *exploding, "--wait")
    assert code == 4, out
    name = submitted(out)
    assert f"{name} failed with exit code 4; its last lines say why" in out
    assert client("logs", "-f", name)[0] == 4


def refusals(folder: Path) -> list[tuple[list[str], int, str]]:
    return [
        (["train.epoch=3"], 2, "did you mean epochs?"),
        (["train.workers={min: 32, max: 32}"], 5, "at most the cluster's 4 CPUs"),
        (["storage=/proc/nothing"], 3, "/proc/nothing"),
        ([f"data.train.0.uri={folder}/nothing"], 3, f"{folder}/nothing"),
    ]


def test_what_cannot_run_there_is_refused_before_it_is_sent(client, tmp_path):
    job = str(write_job(tmp_path))
    before = client("list")[1]
    for overrides, expected, says in refusals(tmp_path):
        code, out = client("submit", job, *SMALL[:2], *overrides)
        assert code == expected, out
        assert says in out
    assert client("list")[1].count("tiny-") == before.count("tiny-")


def test_a_wrong_and_a_missing_token_are_one_error_each(client, tmp_path):
    dashboard = next(line for line in client("cluster", "status")[1].splitlines() if "dashboard" in line)
    url, job = dashboard.split()[1], str(write_job(tmp_path))
    before = client("list")[1]
    wrong, none = {"RAY_AUTH_TOKEN": "wrong"}, {"RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)}
    asked = [
        (("list", "--address", url), wrong, "does not accept this token"),
        (("list",), wrong, "does not accept this token"),
        (("submit", job, "--address", url), wrong, "does not accept this token"),
        (("list", "--address", url), none, "it asks for a token, and none is given"),
        (("list",), none, "or no token is given"),
        (("submit", job, "--address", url), none, "it asks for a token, and none is given"),
    ]
    for words, environment, says in asked:
        code, out = client(*words, **environment)
        assert code == 5, out
        assert says in out
        assert out.count("\n") == 1
    assert client("list")[1] == before
    code, out = client("doctor", "--address", url)
    assert "answers and takes the token" in out
    assert "cluster's nodes: 2 alive" in out
    assert code == 0, out
