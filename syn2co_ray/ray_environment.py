"""Settings that Ray reads once, when it is first imported; made by the package before anything else."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

DEFAULTS = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # How often the trainer's controller looks at its workers; the default of 2 s delays every run's end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # `train.elasticity` looks at nodes itself, and every helper process costs seconds of CPU at the start.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_OWN_TOKEN = secrets.token_hex(32)


def set_defaults() -> None:
    """Set what the user has not set; a process that has imported Ray already is left alone."""
    if "ray" in sys.modules:
        return
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_MODE" in os.environ:
        return
    if any(os.environ.get(name) for name in TOKEN_VARIABLES):
        # Ray itself would not look at a token that it is given unless it is also told to.
        os.environ["RAY_AUTH_MODE"] = "token"
    elif not os.environ.get("RAY_ADDRESS"):
        # A cluster started here is behind a token that only this process and its children know. (Left
        # to itself, Ray would write one into the home folder, which changes how later clusters start.)
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _OWN_TOKEN}


def keep_from_proxies() -> None:
    """Reach this machine's own addresses directly: a proxy for others should not see a dashboard's token."""
    proxies = [name for name in os.environ if name.lower().endswith("_proxy") and name.lower() != "no_proxy"]
    if not any(os.environ[name] for name in proxies):
        # Then the system's own settings may count, which a variable of ours would switch off (macOS).
        return
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if spared.strip() == "*":  # all of them; a name more would make it a host's name
        return
    os.environ["no_proxy"] = ",".join(dict.fromkeys([*filter(None, spared.split(",")), *LOOPBACK]))


def token_given() -> str | None:
    """The token that the user gave for a cluster, found where Ray looks for it; None when there is none.

    Raises:
        OSError: the file that RAY_AUTH_TOKEN_PATH names cannot be read.
    """
    token = os.environ.get("RAY_AUTH_TOKEN")
    if token and token != _OWN_TOKEN:
        return token.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return file.read_text().strip() if named or file.is_file() else None
