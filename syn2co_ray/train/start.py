"""Start a run with the networks and queues of another one."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors.torch import load as load_tensors
from torch import Tensor

from ..methods import Method
from ..methods.queue import FeatureQueue
from ..spec.errors import CheckpointError
from ..spec.source import ObjectStoreSpec
from ..spec.train import StartSpec
from ..storage import open_store
from .checkpoint_files import METHOD, complete_steps, read_checkpoint

NAMES_SHOWN = 3
OWN_CLOCK = "momentum.last_step"
"""State that counts steps, of which a new run has done none."""


def start_from(method: Method, start: StartSpec, object_store: ObjectStoreSpec) -> str:
    """Load another run's networks and queues in place; returns what was done, for people.

    What the other run had beyond this method (a predictor, say) is left out.

    Raises:
        CheckpointError: no such checkpoint, queues of another size (unless they are to be refilled), or
            other networks than the job's.
    """
    run = open_store(start.run, object_store)
    step = _step_of(run.uri, complete_steps(run), start.step)
    own = method.state_dict()
    theirs = load_tensors(read_checkpoint(run, step)[METHOD])
    queues = [name for name, module in method.named_modules() if isinstance(module, FeatureQueue)]
    kept = {OWN_CLOCK} & own.keys()
    if start.queues == "refill":
        kept |= {name for name in own if name.rpartition(".")[0] in queues}
    wanted = [name for name in own if name not in kept]
    _check_queues(run.uri, queues if start.queues == "keep" else [], theirs, own)
    _check_networks(run.uri, wanted, theirs, own)
    method.load_state_dict({name: own[name] if name in kept else theirs[name] for name in own})
    refilled = f", {' and '.join(queues)} filled anew" if start.queues == "refill" and queues else ""
    return f"started from step {step} of {run.uri}{refilled}"


def _step_of(uri: str, steps: list[int], wanted: int | None) -> int:
    if wanted is None and steps:
        return steps[-1]
    if wanted is not None and wanted in steps:
        return wanted
    got = "no whole checkpoint" + ("" if wanted is None else f" of step {wanted}")
    allowed = f"one of the steps {', '.join(map(str, steps))}" if steps else "the folder of a run"
    raise CheckpointError(uri, got, allowed, "mend train.start_from")


def _check_queues(
    uri: str, queues: list[str], theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> None:
    for queue in queues:
        there, here = theirs.get(f"{queue}.features"), own[f"{queue}.features"]
        if there is None or there.shape != here.shape:
            size = "nothing" if there is None else f"{there.shape[0]} features of {there.shape[1]}"
            raise CheckpointError(
                uri,
                f"{queue} holds {size}",
                f"{here.shape[0]} features of {here.shape[1]}, as in the job",
                "set method.queue_size_features to the checkpoint's, or start with random queues: "
                "train.start_from.queues=refill",
            )


def _check_networks(
    uri: str, wanted: list[str], theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> None:
    faults = [
        f"{name} is missing" if name not in theirs else f"{name} is {tuple(theirs[name].shape)}"
        for name in wanted
        if name not in theirs or theirs[name].shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - NAMES_SHOWN} more" if len(faults) > NAMES_SHOWN else ""
        raise CheckpointError(
            uri,
            f"holds other networks than the job's: {', '.join(faults[:NAMES_SHOWN])}{more}",
            "the same framework, backbone and head sizes",
            "mend train.start_from or section method",
        )
