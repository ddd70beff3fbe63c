"""`syn2co submit` and its relatives against a Ray cluster of two nodes with a token, as `cluster up` starts it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import syn2co_ray

from .test_run import only_run, results_of, write_job

pytestmark = [pytest.mark.slow, pytest.mark.ray]

TIMEOUT_S = 600
SMALL = [
    "data.reader_cpus_each=0.5",
    "augment.actors={min: 1, max: 1, cpus_each: 0.5}",
    "train.workers={min: 2, max: 2, cpus_each: 0.5}",
]


class Client:
    """The command with the environment of somebody who uses the cluster."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

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
        return command.returncode, out


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    source = str(Path(syn2co_ray.__file__).parents[1])
    away = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in away}
    state = str(tmp_path_factory.mktemp("state"))
    client = Client({**kept, "XDG_STATE_HOME": state, "PYTHONPATH": source})
    try:
        code, out = client("cluster", "up", "--nodes", "2", "--cpus-each", "2")
        assert code == 0, out
        exports = [line.removeprefix("export ") for line in out.splitlines() if line.startswith("export ")]
        client.environment |= dict(line.split("=", 1) for line in exports)
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


def test_other_code_is_refused_or_sent_along_and_the_job_is_followed_to_its_end(client, tmp_path):
    job = str(write_job(tmp_path))
    changed = tmp_path / "tree"
    shutil.copytree(Path(syn2co_ray.__file__).parent, changed / "syn2co_ray")
    (changed / "syn2co_ray/added.py").write_text('"""Makes the code another one."""\n')
    here = {"PYTHONPATH": str(changed)}
    code, out = client("submit", job, *SMALL, "train.epochs=2", **here)
    assert code == 5, out
    assert "submit with --working-tree" in out
    assert client("list")[1] == "no jobs\n"

    code, out = client("submit", job, *SMALL, "train.epochs=2", "--working-tree", "--wait", **here)
    assert code == 0, out
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


def test_ctrl_c_of_the_client_leaves_the_job_stop_publishes_a_checkpoint_and_the_same_command_resumes(
    client, tmp_path
):
    words = ("submit", str(write_job(tmp_path)), *SMALL, "train.epochs=40", "data.eval=null", "--wait")
    following = client.start(*words)
    out = read_until(following, "epoch 1/40")
    name = submitted(out)
    following.send_signal(signal.SIGINT)
    rest, _ = following.communicate(timeout=60)
    assert following.returncode == 130, rest
    assert f"{name} goes on; follow it again: syn2co logs -f {name}" in rest
    code, out = client("submit", *words[1:])
    assert code == 5
    assert f"{name} is at it (RUNNING)" in out

    code, out = client("stop", name)
    assert code == 0, out
    assert f"{name} was stopped; next: syn2co submit" in out
    assert client("status", name)[0] == 130
    run = only_run(tmp_path)
    stopped = results_of(run)
    assert stopped["status"] == "interrupted"
    assert 0 < stopped["steps"] < 40 * 5
    assert (run / f"checkpoints/step-{stopped['steps']:09d}/MANIFEST.json").is_file()

    code, out = client(*words)
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


def test_a_wrong_and_a_missing_token_are_one_error_each(client):
    dashboard = next(line for line in client("cluster", "status")[1].splitlines() if "dashboard" in line)
    url = dashboard.split()[1]
    asked: list[Callable[[], tuple[int, str]]] = [
        lambda: client("list", "--address", url, RAY_AUTH_TOKEN="wrong"),
        lambda: client("list", RAY_AUTH_TOKEN="wrong"),
    ]
    for ask in asked:
        code, out = ask()
        assert code == 5
        assert "does not accept this token" in out
        assert out.count("\n") == 1
    code, out = client("doctor", "--address", url)
    assert "answers and takes the token" in out
    assert "cluster's nodes: 2 alive" in out
    assert code == 0, out
