"""Checkpoints: everything for an identical continuation, whole or absent.

    checkpoints/step-000000120/
        method.safetensors      both encoders, heads, queues with pointers
        optimizer.safetensors   AdamW moments and step counts, by parameter name
        state.json              position, resolved spec and its hash, world size, run counters
        MANIFEST.json           sizes and SHA-256 of the others, written last

A checkpoint without a manifest, or whose bytes do not match it, does not count as one. No random
state is stored: every draw derives from (seed, step), so the position is the random state.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from ..spec.errors import CheckpointError
from ..storage import Store, delete, list_files, publish_bytes, read_bytes

MANIFEST = "MANIFEST.json"
_NAME = re.compile(r"step-(\d{9})/([^/]+)")


@dataclass
class Checkpoint:
    """A checkpoint in memory: `state` is plain JSON values, tensors are on the CPU."""

    state: dict[str, Any]
    method: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]

    @property
    def step(self) -> int:
        """Number of steps done, which is also the next step to do."""
        return int(self.state["step"])


def save_checkpoint(run: Store, checkpoint: Checkpoint, keep: int) -> str:
    """Publish a checkpoint and drop all but the newest `keep` whole ones; returns its uri."""
    store = run.child("checkpoints", f"step-{checkpoint.step:09d}")
    files = {
        "method.safetensors": save_tensors({k: v.contiguous() for k, v in checkpoint.method.items()}),
        "optimizer.safetensors": save_tensors({k: v.contiguous() for k, v in checkpoint.optimizer.items()}),
        "state.json": json.dumps(checkpoint.state, indent=1).encode(),
    }
    for name, data in files.items():
        publish_bytes(store, name, data)
    manifest = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    publish_bytes(store, MANIFEST, json.dumps(manifest, indent=1).encode())
    for step in complete_steps(run)[:-keep]:
        _drop(run, step)
    return store.uri


def complete_steps(run: Store) -> list[int]:
    """Steps of all checkpoints that have a manifest, oldest first."""
    return sorted(step for step, names in _found(run).items() if MANIFEST in names)


def load_newest(run: Store, spec_hash: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with newer ones.

    Raises:
        CheckpointError: the newest whole checkpoint belongs to another spec.
    """
    rejected = []
    for step in sorted(_found(run), reverse=True):
        try:
            checkpoint = load_checkpoint(run, step)
        except CheckpointError as error:
            rejected.append(str(error))
            continue
        if checkpoint.state["spec_hash"] != spec_hash:
            raise CheckpointError(
                run.child("checkpoints", f"step-{step:09d}").uri,
                f"belongs to spec {checkpoint.state['spec_hash'][:8]}",
                f"a checkpoint of spec {spec_hash[:8]}",
                "use another name or storage for this job, or restore the job file the run was started with",
            )
        return checkpoint, rejected
    return None, rejected


def newest_step(run: Store, spec_hash: str) -> int:
    """Step to continue from: that of the newest whole checkpoint, else 0."""
    checkpoint, _ = load_newest(run, spec_hash)
    return checkpoint.step if checkpoint else 0


def load_checkpoint(run: Store, step: int) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        CheckpointError: no manifest, a missing file, a wrong size or checksum.
    """
    store = run.child("checkpoints", f"step-{step:09d}")
    names = _found(run).get(step, set())
    if MANIFEST not in names:
        raise CheckpointError(
            store.uri, "has no manifest (its writer was stopped)", "", "an older one is used"
        )
    manifest = json.loads(read_bytes(store, MANIFEST))
    data = {}
    for name, expected in manifest.items():
        if name not in names:
            raise CheckpointError(store.uri, f"{name} is missing", "", "an older one is used")
        data[name] = read_bytes(store, name)
        if len(data[name]) != expected["bytes"] or _sha256(data[name]) != expected["sha256"]:
            raise CheckpointError(
                store.uri,
                f"{name} has {len(data[name])} bytes that do not match its checksum",
                f"{expected['bytes']} bytes, SHA-256 {expected['sha256'][:12]}...",
                "an older one is used",
            )
    return Checkpoint(
        json.loads(data["state.json"]),
        load_tensors(data["method.safetensors"]),
        load_tensors(data["optimizer.safetensors"]),
    )


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state as tensors called `<parameter name>/<state name>`, on the CPU."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": torch.as_tensor(value).detach().cpu()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """Put back what `optimizer_tensors` took."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameter_name, key = name.rsplit("/", 1)
        parameter = parameters[parameter_name]
        # AdamW keeps its step counts on the CPU unless it is capturable.
        device = "cpu" if key == "step" else parameter.device
        optimizer.state[parameter][key] = tensor.to(device)


def _found(run: Store) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for info in list_files(run.child("checkpoints"), missing_ok=True):
        match = _NAME.fullmatch(info.path)
        if match:
            found.setdefault(int(match.group(1)), set()).add(match.group(2))
    return found


def _drop(run: Store, step: int) -> None:
    store = run.child("checkpoints", f"step-{step:09d}")
    # The manifest goes first: a half-deleted checkpoint must not look whole.
    for name in sorted(_found(run)[step], key=lambda name: name != MANIFEST):
        delete(store, name)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
