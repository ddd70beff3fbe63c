"""What is sent to a cluster: the resolved job file, and if asked this package's code and its libraries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

from ..spec.errors import ClusterError
from ..spec.identity import resolved
from ..spec.job import JobSpec
from ..spec.load import load_text
from .probe import PACKAGE
from .reach import URIS_OF

JOB_FILE = "job.yaml"
ENDED = "ended with exit code "
"""Last line of a job's log: Ray keeps no exit code of a job that it was asked to stop."""
INSTALL_TIMEOUT_S = 1800
"""Ray's own ten minutes are short for torch with CUDA, once a node."""
PLACES = frozenset({"storage", "into"}.union(*URIS_OF.values())) - {"image_set"}
"""Keys that always name a place."""
PLACES_OR_NAMES = frozenset({"source", "lora", "weights"})
"""Keys that may name a folder, and may name something else."""


def with_absolute_paths(job: JobSpec) -> tuple[JobSpec, list[str]]:
    """The job with its relative local paths made absolute (a cluster's nodes work in another folder).

    Returns:
        The job, and the dotted keys of the paths that were relative.
    """
    values = resolved(job)
    changed = list(_made_absolute(values, ""))
    if not changed:
        return job, []
    return load_text(yaml.safe_dump(values, sort_keys=False)), changed


def _made_absolute(value: Any, where: str) -> Iterator[str]:
    """Change nested values in place; yields the dotted keys of what was changed."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        at = f"{where}.{key}" if where else str(key)
        if isinstance(item, dict | list):
            yield from _made_absolute(item, at)
        elif isinstance(item, str) and _is_relative_place(str(key), item, value):
            value[key] = os.path.abspath(os.path.expanduser(item))
            yield at


def _is_relative_place(key: str, text: str, beside: Any) -> bool:
    if "://" in text or os.path.isabs(text):
        return False
    if key == "image_set":
        # Of annotated images a file; of videos a name below their folder.
        return "annotations" in beside
    return key in PLACES or (key in PLACES_OR_NAMES and Path(text).exists())


def entrypoint() -> str:
    """The shell command that runs the job file on the head, and leaves its exit code in the log.

    The shell catches the signal that Ray sends to it as well, so that it outlives the run.
    """
    return (
        f'trap : TERM INT; python -m {PACKAGE}.cli run {JOB_FILE}; code=$?; echo "{ENDED}$code"; exit $code'
    )


def runtime_env(
    folder: Path, *, stop_grace_s: int, working_tree: bool = False, pip: Sequence[str] = ()
) -> dict[str, Any]:
    """Ray's description of what the job runs in.

    Args:
        folder: holds the job file; becomes the working folder of all of the job's processes.
        stop_grace_s: seconds between SIGTERM and SIGKILL when the job is stopped; Ray's own 3 are less than
            a checkpoint takes.
        working_tree: send this package's code.
        pip: libraries to install, as `pinned_libraries` gives them.
    """
    environment: dict[str, Any] = {
        "working_dir": str(folder),
        # Read by the process that watches over the job, which runs in this environment too.
        "env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGTERM", "RAY_JOB_STOP_WAIT_TIME_S": str(stop_grace_s)},
    }
    if working_tree:
        environment["py_modules"] = [str(Path(__file__).parents[1])]
        environment["excludes"] = ["**/__pycache__"]
    if pip:
        environment["pip"] = {"packages": list(pip), "pip_check": False}
        environment["config"] = {"setup_timeout_seconds": INSTALL_TIMEOUT_S}
    return environment


def pinned_libraries(
    libraries: Sequence[Requirement], installed: Callable[[str], str] = version
) -> list[str]:
    """Libraries as `name==version`, as they are here, without Ray, which a cluster brings itself.

    A build's label (`+cpu`, `+cu128`) is left out: it names a build for this machine, and any build of
    the version that is installed on the cluster satisfies what is asked.

    Raises:
        ClusterError: none are known, as this package is not installed, or one of them is not.
    """
    if not libraries:
        got = f"{PACKAGE} is not installed here, so that its libraries are not known"
        raise ClusterError("--pip", got, "", "pip install -e . in its checkout")
    pinned = []
    for wanted in libraries:
        if wanted.name.lower() == "ray":
            continue
        try:
            pinned.append(f"{wanted.name}=={installed(wanted.name).partition('+')[0]}")
        except PackageNotFoundError:
            got = f"{wanted.name} is not installed here, so that its version is not known"
            step = f"pip install '{wanted.name}{wanted.specifier}' here first"
            raise ClusterError("--pip", got, "", step) from None
    return pinned
