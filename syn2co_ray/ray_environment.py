"""Settings that Ray reads once, when it is first imported; called by the package before anything else."""

from __future__ import annotations

import os
import secrets
import sys

DEFAULTS = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # How often the trainer's controller looks at its workers; the default of 2 s delays every run's end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # `train.elasticity` looks at nodes itself, and every helper process costs seconds of CPU at the start.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def set_defaults() -> None:
    """Set what the user has not set; a process that has imported Ray already is left alone."""
    if "ray" in sys.modules:
        return
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("RAY_ADDRESS") and "RAY_AUTH_MODE" not in os.environ:
        # A cluster started here is behind a token that only this process and its children know. (Left
        # to itself, Ray would write one into the home folder, which changes how later clusters start.)
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
