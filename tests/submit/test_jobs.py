from __future__ import annotations

import pytest

from syn2co_ray.spec.errors import ClusterError
from syn2co_ray.submit import jobs
from syn2co_ray.submit.jobs import Job, code_of, ending_words, follow
from syn2co_ray.submit.shipping import ENDED

from .job_server import JOB, JobServer, serving


def job(status: str, exit_code: int | None = None, error_type: str | None = None, message: str = "") -> Job:
    return Job(
        "tiny-1", status, message, exit_code, error_type, 100.0, 250.0, "tiny", "syn2co submit tiny.yaml"
    )


@pytest.mark.parametrize(
    ("ended", "log", "code"),
    [
        (job("SUCCEEDED", 0), "", 0),
        (job("FAILED", 2), "", 2),
        (job("FAILED", 3), "", 3),
        (job("FAILED", 5), "", 5),
        (job("FAILED", 130), "", 130),
        (job("FAILED", 1), "", 4),
        (job("FAILED", -9), "", 4),
        (job("FAILED", None, "JOB_SUPERVISOR_ACTOR_DIED"), "", 4),
        (job("FAILED", None, "RUNTIME_ENV_SETUP_FAILURE"), "", 5),
        (job("STOPPED"), f"checkpoint published\n{ENDED}130\n", 130),
        (job("STOPPED"), f"{ENDED}143\n", 130),
        (job("STOPPED"), f"{ENDED}0\n", 0),
        (job("STOPPED"), "epoch 1/60 ...\n", 4),
        (job("STOPPED"), "", 4),
    ],
)
def test_the_exit_code_is_that_of_the_run(ended, log, code):
    assert code_of(ended, log) == code


def test_the_end_says_what_to_do():
    again = "next: syn2co submit tiny.yaml"
    assert again in ending_words(job("STOPPED"), f"{ENDED}130")
    killed = ending_words(job("STOPPED"), "epoch 1/60")
    assert "was killed before it had stopped by itself" in killed
    assert again in killed
    assert "its last lines say why" in ending_words(job("FAILED", 4), "")
    assert "no pip there" in ending_words(
        job("FAILED", None, "RUNTIME_ENV_SETUP_FAILURE", "no pip there"), ""
    )


def test_a_line_of_the_list_has_status_time_and_run():
    assert job("SUCCEEDED", 0).line(now=1000.0) == "tiny-1  SUCCEEDED  2 min 30 s  tiny"


@pytest.mark.parametrize("break_off", ["close", "abort"])
def test_a_broken_connection_is_made_again_and_nothing_is_written_twice(monkeypatch, break_off):
    monkeypatch.setattr(jobs, "RECONNECT_AFTER_S", 0.0)
    written: list[str] = []
    parts = ("epoch 1/3 ...\nepo", "ch 2/3 ...\n", "epoch 3/3 ...\n")
    with serving(JobServer(*parts, break_off=break_off)) as server:
        ended = follow(server.dashboard, JOB, written.append)
    assert written == list(parts)
    assert (ended.status, server.connections) == ("SUCCEEDED", 3)


def test_following_gives_up_after_a_while_and_says_how_to_go_on(monkeypatch):
    monkeypatch.setattr(jobs, "RECONNECT_AFTER_S", 0.0)
    monkeypatch.setattr(jobs, "RECONNECTS", 2)
    # From the second connection on nothing new comes, and each one breaks.
    with serving(JobServer("epoch 1/3 ...\n", *[""] * 9, break_off="abort")) as server:
        with pytest.raises(ClusterError, match=f"lost while following {JOB}") as caught:
            follow(server.dashboard, JOB, lambda text: None)
        url = server.dashboard.url
    assert server.connections == 3
    assert caught.value.fault.next_step == f"the job may be well: syn2co logs -f {JOB} --address {url}"
