"""What a run was made with: code, libraries, data, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.index import SourceIndex
from ..spec.identity import spec_hash
from ..spec.job import FolderJobSpec

LIBRARIES = ("torch", "timm", "ray", "pyarrow", "numpy", "opencv-python-headless", "simplejpeg", "pillow")


def provenance(
    job: FolderJobSpec, indexes: tuple[SourceIndex, ...], live: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Plain values for provenance.json; data sets are named by the hash of their manifest."""
    return {
        "spec_hash": spec_hash(job),
        "code_version": __version__,
        "git_commit": _git_commit(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "hardware": {"cpu": _cpu_name(), "cpus": os.cpu_count(), "machine": platform.machine()},
        "data": data_records(indexes),
        **({"live": live} if live else {}),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def data_records(indexes: Iterable[SourceIndex]) -> list[dict[str, Any]]:
    """What tells each data set from others, and how many images it has."""
    return [
        {"uri": index.source.uri, "fingerprint": index.fingerprint, "records": index.num_records}
        for index in indexes
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the code when it runs from a checkout; `+` marks uncommitted changes."""
    folder = Path(__file__).parent
    try:
        run = [
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "."])
        ]
    except (OSError, subprocess.TimeoutExpired):
        return None
    if run[0].returncode:
        return None
    return run[0].stdout.strip() + ("+" if run[1].stdout.strip() else "")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
