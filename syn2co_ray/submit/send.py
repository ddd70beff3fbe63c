"""`syn2co submit`: check a job against a cluster, then send it."""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from ..spec.errors import ClusterError, error_from_json
from ..spec.identity import resolved_yaml, run_name
from ..spec.job import JobSpec
from ..spec.pipeline import PipelineJobSpec
from . import probe
from .dashboard import Dashboard
from .jobs import COMMAND_KEY, PROBE_KEY, RUN_KEY, code_of, job_client, list_jobs, log_of, wait_until_over
from .libraries import extras_of, needed_libraries
from .parity import OTHER_LIBRARIES, check_parity
from .shipping import JOB_FILE, entrypoint, pinned_libraries, runtime_env, with_absolute_paths

PROBE_FILE = "probe.py"
PROBE_STOP_GRACE_S = 10
ID_BYTES = 3


@dataclass(frozen=True)
class Sending:
    """What is sent, and in which environment it runs."""

    job: JobSpec
    working_tree: bool
    pip: bool
    stop_grace_s: int
    command: str
    """That submits it again."""

    @property
    def run(self) -> str:
        return self.job.name if isinstance(self.job, PipelineJobSpec) else run_name(self.job)

    @property
    def libraries(self) -> list[Requirement]:
        """That the job needs; none when this package runs from a folder, which does not say them."""
        try:
            return needed_libraries(extras_of(self.job))
        except PackageNotFoundError:
            return []


def submit(dashboard: Dashboard, sending: Sending, log: Callable[[str], None]) -> str:
    """Check the job against the cluster and send it; returns its id there.

    Raises:
        ClusterError: no answer, no right, other versions, or the same run is under way there.
        ResourceError: the cluster can never schedule it.
        StorageError: a place that the job needs is out of reach of the cluster's nodes.
    """
    there, here = dashboard.ray_version(), str(probe.versions_here()["ray"])
    if there != here:
        # Before anything is sent: job servers of other versions may not understand it.
        check_parity(probe.versions_here(), [{**probe.versions_here(), "ray": there, "node": "the head"}])
    job, changed = with_absolute_paths(sending.job)
    sending = replace(sending, job=job)
    if changed:
        log(f"made absolute, to be the same on all nodes: {', '.join(changed)}")
    log(f"run {sending.run}")
    if not sending.libraries:
        log(f"libraries are not compared: {probe.PACKAGE} is not installed here (pip install -e .)")
    _refuse_twice(dashboard, sending.run)
    with _folder_of(sending.job) as folder:
        log("asking the cluster's nodes for versions, resources and the job's places ...")
        answer = _asked(dashboard, sending, folder)
        for line in checked_lines(sending.job, answer, sending.libraries):
            log(line)
        environment = _uploaded(sending, folder, sending.stop_grace_s)
        metadata = {RUN_KEY: sending.run, COMMAND_KEY: sending.command}
        return _sent(dashboard, entrypoint(), environment, sending.run, metadata)


def checked_lines(job: JobSpec, answer: dict[str, Any], libraries: Sequence[Requirement]) -> list[str]:
    """What the probe's answer means for a job that needs these libraries.

    Raises:
        ClusterError, ResourceError, StorageError: as of `submit`.
    """
    check_parity(probe.versions_here(), answer["nodes"], libraries)
    for node in answer["nodes"]:
        if "cannot_import" in node:
            got = f"{probe.PACKAGE} is there and cannot be imported: {node['cannot_import']}"
            raise ClusterError(node["node"], got, "", OTHER_LIBRARIES)
        for error in node.get("unreachable", ()):
            raise error_from_json(error)
    # It imports what all kinds of jobs need: seconds, which nobody shall wait who is refused before.
    from .cluster_fit import fit_lines

    image = answer["nodes"][0]["image"]
    lines = [f"image of all nodes: {image}"] if image else []
    return lines + fit_lines(job, answer["resources"], answer["autoscaler"])


def _refuse_twice(dashboard: Dashboard, run: str) -> None:
    """Two drivers must not write into one run's folder."""
    for known in list_jobs(dashboard):
        if known.run == run and not known.is_over:
            got = f"{known.name} is at it ({known.status})"
            follow, stop = dashboard.command("logs", "-f", known.name), dashboard.command("stop", known.name)
            raise ClusterError(f"run {run}", got, "one job a run", f"{follow}, or {stop}")


def _asked(dashboard: Dashboard, sending: Sending, folder: Path) -> dict[str, Any]:
    """Send the probe, and wait for what it says."""
    environment = _uploaded(sending, folder, PROBE_STOP_GRACE_S)
    command = shlex.join(["python", PROBE_FILE, JOB_FILE, *(wanted.name for wanted in sending.libraries)])
    name = _sent(dashboard, command, environment, f"probe-{sending.run}", {PROBE_KEY: sending.run})
    ended = wait_until_over(dashboard, name)
    said = log_of(dashboard, name)
    lines = [line for line in said.splitlines() if line.startswith(probe.ANSWER)]
    if not lines:
        why = ended.message.strip() or said.strip() or ended.status
        last = "\n  ".join(why.splitlines()[-5:])
        logs = dashboard.command("logs", name)
        step = f"{logs}; the cluster's `python` is the first of the PATH of its head's process"
        raise ClusterError(
            f"job {name}",
            f"the cluster could not be asked (exit code {code_of(ended, said)}):\n  {last}",
            "",
            step,
        )
    return dict(json.loads(lines[-1].removeprefix(probe.ANSWER)))


@contextlib.contextmanager
def _folder_of(job: JobSpec) -> Iterator[Path]:
    """A folder with what every job is sent with: the resolved job file and the probe."""
    with tempfile.TemporaryDirectory(prefix="syn2co-job-") as name:
        folder = Path(name)
        (folder / JOB_FILE).write_text(resolved_yaml(job), encoding="utf-8")
        shutil.copy(probe.__file__, folder / PROBE_FILE)
        yield folder


def _uploaded(sending: Sending, folder: Path, stop_grace_s: int) -> dict[str, Any]:
    pip = pinned_libraries(sending.libraries) if sending.pip else ()
    return runtime_env(folder, stop_grace_s=stop_grace_s, working_tree=sending.working_tree, pip=pip)


def _sent(
    dashboard: Dashboard, command: str, environment: dict[str, Any], stem: str, metadata: dict[str, str]
) -> str:
    name = f"{stem}-{secrets.token_hex(ID_BYTES)}"
    try:
        return str(
            job_client(dashboard).submit_job(
                entrypoint=command,
                submission_id=name,
                runtime_env=environment,
                metadata=metadata,
            )
        )
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        got, step = f"it did not take the job: {reason}", dashboard.command("doctor")
        raise ClusterError(dashboard.url, got, "", step) from None
