"""Jobs on a cluster, through the head's job server: what they are, their logs, and how they ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..spec.errors import ClusterError, DataError, ResourceError, RunInterrupted, SpecError, Syn2coError
from .dashboard import Dashboard
from .progress import duration
from .shipping import ENDED

OVER = ("SUCCEEDED", "FAILED", "STOPPED")
RUN_KEY, COMMAND_KEY = "syn2co_run", "syn2co_command"
"""Metadata of our jobs: the run's name, and the command that submits it again."""
PROBE_KEY = "syn2co_probe_for"
"""Metadata of jobs that only ask the cluster's nodes. They stay on the job server: one that is deleted as
soon as it has ended comes back as a failed one."""
POLL_S = 1.0
TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
RECONNECTS, RECONNECT_AFTER_S = 10, 3.0
KNOWN_CODES = frozenset(
    {0, *(kind.exit_code for kind in (Syn2coError, SpecError, DataError, ResourceError, RunInterrupted))}
)
NEVER_BEGAN = frozenset(
    {
        "RUNTIME_ENV_SETUP_FAILURE",
        "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
        "JOB_SUPERVISOR_ACTOR_START_FAILURE",
        "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
    }
)
"""Ray's words for jobs that the cluster could not start."""
SIGNALLED = frozenset({130, 143, -15, -2})
"""Ended by SIGINT or SIGTERM, before or after it was listened to."""


@dataclass(frozen=True)
class Job:
    """One job as the head's job server describes it."""

    name: str
    """Its submission id."""
    status: str
    """PENDING, RUNNING, or one of `OVER`."""
    message: str
    exit_code: int | None
    """Of the command; Ray keeps none of a job that was stopped."""
    error_type: str | None
    started_at: float | None
    """Unix time, as are the next."""
    ended_at: float | None
    run: str
    """Name of the run; empty when the job is not ours."""
    command: str

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def line(self, now: float) -> str:
        """Status, run and age in one line."""
        since = self.started_at or now
        took = duration((self.ended_at or now) - since)
        return f"{self.name}  {self.status}  {took}  {self.run or 'not of syn2co'}"


def _job(values: dict[str, Any]) -> Job:
    metadata = values.get("metadata") or {}
    started, ended = values.get("start_time"), values.get("end_time")
    return Job(
        name=values["submission_id"] or values["job_id"],
        status=str(values["status"]),
        message=values.get("message") or "",
        exit_code=values.get("driver_exit_code"),
        error_type=values.get("error_type"),
        started_at=started / 1000 if started else None,
        ended_at=ended / 1000 if ended else None,
        run=metadata.get(RUN_KEY, ""),
        command=metadata.get(COMMAND_KEY, ""),
    )


def job_client(dashboard: Dashboard) -> Any:
    """Ray's client of the job server; it tells the terminal nothing about its own doings."""
    from ray.job_submission import JobSubmissionClient

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    return JobSubmissionClient(dashboard.url, headers=dashboard.headers)


def list_jobs(dashboard: Dashboard) -> list[Job]:
    """Jobs that were submitted to the cluster, the oldest first, but for probes.

    A `syn2co run` that only connects to the cluster is none.

    Raises:
        ClusterError: as of all functions here: nobody answers, or the token is missing or wrong.
    """
    listed = [values for values in dashboard.get("/api/jobs/") if values.get("submission_id")]
    found = [_job(values) for values in listed if PROBE_KEY not in (values.get("metadata") or {})]
    return sorted(found, key=lambda job: job.started_at or 0.0)


def find_job(dashboard: Dashboard, name: str) -> Job:
    """A job by its id.

    Raises:
        ClusterError: there is no such job.
    """
    return _job(dashboard.get(f"/api/jobs/{name}"))


def log_of(dashboard: Dashboard, name: str) -> str:
    """Everything that a job has printed so far."""
    return str(dashboard.get(f"/api/jobs/{name}/logs")["logs"])


def ask_to_stop(dashboard: Dashboard, name: str) -> bool:
    """SIGTERM to the job; False when it is over already."""
    return bool(dashboard.post(f"/api/jobs/{name}/stop")["stopped"])


def wait_until_over(
    dashboard: Dashboard, name: str, look_on: Callable[[Job], None] = lambda job: None
) -> Job:
    """Return the job when it has ended; `look_on` is called now and then until then."""
    while True:
        job = find_job(dashboard, name)
        if job.is_over:
            return job
        look_on(job)
        time.sleep(POLL_S)


def follow(dashboard: Dashboard, name: str, write: Callable[[str], None]) -> Job:
    """Hand on what a job prints, from its first line on, until it has ended.

    A connection that breaks is made again; nothing is written twice.

    Raises:
        ClusterError: there is no such job, or the head does not answer any more (the job may be well).
    """
    import aiohttp

    find_job(dashboard, name)
    written, broken = 0, 0
    while True:
        before = written
        try:
            for piece, end in _tail(dashboard, name):
                if end > written:
                    write(piece[written - end :])
                    written = end
            job = find_job(dashboard, name)
            if not job.is_over:  # closed in good order: by a port-forward that ends, or an agent that dies
                raise ConnectionError("the connection was closed")
            return job
        except (RuntimeError, OSError, aiohttp.ClientError, ClusterError) as error:
            broken = 0 if written > before else broken + 1
            if broken == RECONNECTS:
                step = f"the job may be well: {dashboard.command('logs', '-f', name)}"
                raise ClusterError(dashboard.url, f"lost while following {name}: {error}", "", step) from None
            time.sleep(RECONNECT_AFTER_S)


def _tail(dashboard: Dashboard, name: str) -> Iterator[tuple[str, int]]:
    """Pieces of a job's log as they come, each with the length of the log up to its end."""
    pieces = job_client(dashboard).tail_job_logs(name)

    async def next_piece() -> str | None:
        return await anext(pieces, None)

    end = 0
    with asyncio.Runner() as runner:
        while (piece := runner.run(next_piece())) is not None:
            end += len(piece)
            yield piece, end


def code_of(job: Job, log: str) -> int:
    """The exit code that `syn2co run` had, for a job that is over."""
    if job.status == "SUCCEEDED":
        return 0
    if job.error_type in NEVER_BEGAN:
        return ClusterError.exit_code
    code = _code_in(log) if job.exit_code is None else job.exit_code
    if code in SIGNALLED:
        return RunInterrupted.exit_code
    return code if code is not None and code in KNOWN_CODES else Syn2coError.exit_code


def ending_words(job: Job, log: str) -> str:
    """How a job ended, and what to do next."""
    again = f"; next: {job.command}" if job.command else ""
    if job.status == "SUCCEEDED":
        return f"{job.name} is done"
    if code_of(job, log) == RunInterrupted.exit_code:
        return f"{job.name} was stopped{again}"
    if job.status == "STOPPED":
        return (
            f"{job.name} was killed before it had stopped by itself: steps since its newest whole checkpoint "
            f"are lost{again}"
        )
    if job.exit_code is None:
        return f"{job.name} failed: {job.message.strip() or job.error_type or 'no reason given'}{again}"
    return f"{job.name} failed with exit code {job.exit_code}; its last lines say why"


def _code_in(log: str) -> int | None:
    """The exit code that the job's shell has written at the end."""
    lines = log.rstrip().splitlines()
    last = lines[-1] if lines else ""
    code = last.removeprefix(ENDED)
    return int(code) if last.startswith(ENDED) and code.isdigit() else None
