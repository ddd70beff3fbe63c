"""`syn2co verify-resume`: a short run, and the same one with a worker killed; are they equal?"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console

from ..spec.errors import CheckpointError
from ..spec.identity import resolved
from ..spec.job import TrainingSpec
from ..spec.load import build_spec
from ..storage import Store, delete_folder, list_files, open_store, read_bytes
from ..storage.run_layout import METRICS_FOLDER
from ..train.checkpoint_files import METHOD, complete_steps, read_checkpoint
from ..train.run_folder import existing_run
from .cluster import connected
from .run import run_job

FOLDER = "verify-resume"
"""Below the job's storage; emptied before every verification."""
CHECKPOINTS = 5
LOSS_TOLERANCE = 1e-3
"""Relative. On a CPU a resumed run equals an uninterrupted one bit for bit; GPU kernels add in any order."""


def verify_resume(job: TrainingSpec, steps: int, console: Console, *, debug: bool = False) -> Iterator[str]:
    """Run twice, kill a worker once, compare; yields what was found, line by line.

    Raises:
        CheckpointError: keys, loss or weights differ.
        Syn2coError: a run failed.
    """
    straight, killed = (short(job, steps, name) for name in ("undisturbed", "killed"))
    for cut in (straight, killed):
        delete_folder(open_store(cut.storage, cut.object_store))
    with connected(debug=debug):
        run_job(straight, console, debug=debug)
        # After the first checkpoint, and so that the run is not over before the worker is found.
        first, last = killed.train.checkpoint.every_steps or 1, max(steps * 2 // 3, steps // CHECKPOINTS + 2)
        saboteur = Saboteur(random.SystemRandom().randrange(first + 1, last))
        results = run_job(killed, console, debug=debug, begun_at=time.time(), look_on=saboteur)
    if saboteur.killed_at is None:
        got = f"the run was over before a worker could be killed at step {saboteur.step}"
        raise CheckpointError("verify-resume", got, "a run long enough", "give more --steps")
    restarts = [start for start in results["starts"] if start["reason"]]
    yield f"killed rank {saboteur.rank} at step {saboteur.killed_at}; resumed from {restarts[0]['step']}"
    yield from compared(existing_run(straight).store, existing_run(killed).store)


def short(job: TrainingSpec, steps: int, name: str) -> TrainingSpec:
    """The job cut to so many steps, without evaluation, in a place of its own."""
    values = resolved(job)
    values["storage"] = f"{job.storage.rstrip('/')}/{FOLDER}/{name}"
    if "into" in values:  # what a generator's training publishes
        values["into"] = f"{values['storage']}/pipeline"
    values["data"] |= {
        "eval": None,
        "eval_bank": None,
        "images_per_epoch": steps * job.train.images_per_step_global,
    }
    values["train"] |= {"epochs": 1, "failures_max": max(1, job.train.failures_max)}
    values["train"]["optimizer"]["warmup_epochs"] = min(0.5, job.train.optimizer.warmup_epochs)
    every_steps = max(1, steps // CHECKPOINTS)
    values["train"]["checkpoint"] |= {"every_steps": every_steps, "keep": 2}
    cut = build_spec(values)
    assert isinstance(cut, TrainingSpec)
    return cut


class Saboteur:
    """Kills (SIGKILL) the worker of the last rank, once, when a step has been done."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.killed_at: int | None = None
        self.rank = 0
        self._pid = 0
        self._killer: Any = None

    def __call__(self, run: Any, seen: dict[str, Any]) -> None:
        if self.killed_at is not None or not seen["progress"]:
            return
        import ray

        if self._killer is None:
            self.rank = seen["progress"]["workers"] - 1
            process = ray.get(run.board.process_of.remote(self.rank))
            self._pid, self._killer = process.pid, _killer_on(process.node_id)
        step = seen["progress"]["step"]
        if step >= self.step and ray.get(self._killer.kill.remote(self._pid)):
            self.killed_at = step


class Killer:
    """Waits on the worker's node: a process that is started when it is time to kill would come too late."""

    def kill(self, pid: int) -> bool:
        """False when the process had ended by itself."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def _killer_on(node_id: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=there)(Killer).remote()


def compared(straight: Store, killed: Store) -> Iterator[str]:
    """Lines about two runs of one spec.

    Raises:
        CheckpointError: they differ in what they trained on or what came of it.
    """
    ours, theirs = _rows(straight), _rows(killed)
    if ours.keys() != theirs.keys():
        raise _different("steps", f"{len(ours)} and {len(theirs)} steps are recorded")
    other_keys = [step for step in ours if ours[step]["keys_digest"] != theirs[step]["keys_digest"]]
    if other_keys:
        raise _different("keys", f"{len(other_keys)} steps trained on other images, first {other_keys[0]}")
    yield f"keys: the same in all {len(ours)} steps"
    loss = max(_relative(ours[step]["loss"], theirs[step]["loss"]) for step in ours)
    if loss > LOSS_TOLERANCE:
        raise _different("loss", f"differs by up to {loss:.1e} (relative)")
    yield f"loss: {_words(loss)}"
    weights = _weights_difference(straight, killed)
    if weights > LOSS_TOLERANCE:
        raise _different("weights", f"differ by up to {weights:.1e}")
    yield f"weights and queues: {_words(weights)}"


def _rows(run: Store) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    folder = run.child(METRICS_FOLDER)
    for info in sorted(list_files(folder), key=lambda info: info.path):
        if info.path.startswith("steps-"):
            for line in read_bytes(folder, info.path).decode().splitlines():
                row = json.loads(line)
                rows[row["step"]] = row
    return rows


def _weights_difference(straight: Store, killed: Store) -> float:
    from safetensors.numpy import load

    ours, theirs = (load(read_checkpoint(run, complete_steps(run)[-1])[METHOD]) for run in (straight, killed))
    return max(
        float(np.max(np.abs(ours[name].astype(np.float64) - theirs[name].astype(np.float64)), initial=0.0))
        for name in ours
    )


def _relative(first: float, second: float) -> float:
    if not (math.isfinite(first) and math.isfinite(second)):
        return 0.0 if repr(first) == repr(second) else math.inf
    return abs(first - second) / max(abs(first), 1e-12)


def _words(difference: float) -> str:
    return "bit for bit equal" if difference == 0 else f"equal to {difference:.1e}"


def _different(what: str, got: str) -> CheckpointError:
    step = "keep both run folders and report this; the job should not be trusted to resume"
    return CheckpointError(f"verify-resume, {what}", got, "two equal runs", step)
