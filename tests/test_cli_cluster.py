"""What the commands about clusters print for people to go on with: each printed command does what it says."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from syn2co_ray.cli import app
from syn2co_ray.submit import jobs, send
from syn2co_ray.submit.dashboard import Dashboard
from tests.submit.job_server import JOB, JobServer, serving
from tests.train.local_run import TINY


@pytest.fixture
def job(tmp_path) -> str:
    file = tmp_path / "tiny job.yaml"
    file.write_text(TINY.format(folder=tmp_path))
    return str(file)


@pytest.fixture
def sent(monkeypatch) -> list[send.Sending]:
    """What `submit` would send, instead of sending it."""
    found: list[send.Sending] = []

    def submit(dashboard: Dashboard, sending: send.Sending, log: Any) -> str:
        found.append(sending)
        return JOB

    monkeypatch.setattr(send, "submit", submit)
    return found


def syn2co(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def printed(result: Result, name: str) -> list[str]:
    """Words of the command that a line of this name gives."""
    (line,) = [line for line in result.stdout.splitlines() if line.startswith(f"{name}:")]
    program, *words = shlex.split(line.partition(":")[2])
    assert program == "syn2co"
    return words


@pytest.mark.parametrize(
    "options", [(), ("--working-tree", "--stop-grace-s", "30"), ("--pip", "train.workers={min: 1, max: 2}")]
)
def test_the_printed_command_to_resume_sends_the_same_again(job, sent, options):
    first = syn2co("submit", job, "train.epochs=5", *options, "--address", "http://127.0.0.1:1")
    assert first.exit_code == 0, first.stdout
    again = syn2co(*printed(first, "resume"))
    assert again.exit_code == 0, again.stdout
    assert sent[0] == sent[1]
    assert sent[0].stop_grace_s == (30 if "--stop-grace-s" in options else 600)
    assert printed(again, "resume") == printed(first, "resume")


def test_the_printed_commands_to_follow_and_to_stop_reach_the_same_cluster(job, sent):
    with serving(JobServer("epoch 1/3 ...\n", "epoch 2/3 ...\n")) as server:
        told = syn2co("submit", job, "--address", server.dashboard.url)
        stopped = syn2co(*printed(told, "stop"))
        followed = syn2co(*printed(told, "follow"))
    assert f"{JOB} was asked to stop" in stopped.stdout
    assert followed.stdout.startswith("epoch 1/3 ...\n")
    assert server.status == "STOPPED"


def test_ctrl_c_says_how_to_go_on_at_the_same_cluster(job, sent, monkeypatch):
    def interrupted(*words: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "follow", interrupted)
    monkeypatch.setattr(jobs, "wait_until_over", interrupted)
    with serving(JobServer("")) as server:
        url = server.dashboard.url
        followed = syn2co("submit", job, "--wait", "--address", url)
        stopping = syn2co("stop", JOB, "--address", url)
    assert (followed.exit_code, stopping.exit_code) == (130, 130)
    hint = (
        f"follow it again: syn2co logs -f {JOB} --address {url}; stop it: syn2co stop {JOB} --address {url}"
    )
    assert hint in followed.stdout
    assert f"{JOB} still stops; see syn2co status {JOB} --address {url}" in stopping.stdout
