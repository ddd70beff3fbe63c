"""A run that goes on where another run is: from its whole checkpoint, under values of its own.

Unlike `start`, which takes networks and queues and begins at step 0: here optimizer, schedules and position
in the plan are those of the other run. So both jobs must have the same networks, queues and plan. Imports no
torch.
"""

from __future__ import annotations

import json
from typing import Any

from ..spec.errors import CheckpointError
from ..spec.identity import resolved, run_name, spec_hash
from ..spec.job import TrainingSpec
from ..storage import Store, exists, list_files, open_store, publish_bytes, read_bytes
from ..storage.run_layout import INDEX_FOLDER, INHERITED_FILE, eval_file
from .checkpoint_files import STATE, complete_steps, newest_whole, publish_checkpoint


def hand_over(donor: TrainingSpec, heir: TrainingSpec, epoch: int) -> None:
    """Publish the donor's newest checkpoint, after `epoch` epochs, as the first one of the heir's run.

    The run folder gets it whole or not at all, after what belongs to it: the index of the sources, so that
    the plan is the same; the evaluation of these weights; where they come from. Nothing is done where the
    heir's run has a checkpoint.

    Raises:
        CheckpointError: the donor's newest whole checkpoint is of another epoch.
    """
    theirs, ours = _run_of(donor), _run_of(heir)
    if complete_steps(ours):
        return
    step, files, _ = newest_whole(theirs, spec_hash(donor))
    state: dict[str, Any] = json.loads(files[STATE]) if files else {"epoch": 0}
    if state["epoch"] != epoch:
        got = f"its newest whole checkpoint is after {state['epoch']} epochs"
        raise CheckpointError(theirs.uri, got, f"one after {epoch} epochs")
    origin = {"run": run_name(donor), "spec_hash": spec_hash(donor), "step": step, "epoch": epoch}
    state |= {
        "spec_hash": spec_hash(heir),
        "spec": resolved(heir),
        "inherited_from": [*state.get("inherited_from", []), origin],
        # These tell what the other run did, not where training is.
        "clock": {},
        "resumed_from_steps": [],
    }
    for info in list_files(theirs.child(INDEX_FOLDER)):
        _copy(theirs.child(INDEX_FOLDER), ours.child(INDEX_FOLDER), info.path)
    if exists(theirs, eval_file(step)):
        publish_bytes(ours, eval_file(step), read_bytes(theirs, eval_file(step)))
    publish_bytes(ours, INHERITED_FILE, json.dumps(state["inherited_from"], indent=1).encode())
    publish_checkpoint(ours, step, {**files, STATE: json.dumps(state, indent=1).encode()}, keep=1)


def _run_of(job: TrainingSpec) -> Store:
    return open_store(job.storage, job.object_store).child(run_name(job))


def _copy(source: Store, target: Store, name: str) -> None:
    publish_bytes(target, name, read_bytes(source, name))
