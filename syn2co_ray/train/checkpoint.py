"""Checkpoints in memory: everything for an identical continuation, as tensors and plain values.

No random state is stored: every draw derives from (seed, step), so the position is the random state.
Tensors are safetensors, the rest JSON; nothing is pickled. See `checkpoint_files` for the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from ..storage import Store
from .checkpoint_files import METHOD, OPTIMIZER, STATE, newest_whole, publish_checkpoint


@dataclass
class Checkpoint:
    """`state` is plain JSON values; tensors are on the CPU."""

    state: dict[str, Any]
    method: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]

    @property
    def step(self) -> int:
        """Number of steps done, which is also the next step to do."""
        return int(self.state["step"])


def save_checkpoint(run: Store, checkpoint: Checkpoint, keep: int) -> str:
    """Publish a checkpoint, keep the newest `keep`; returns its uri."""
    files = {
        METHOD: save_tensors({name: tensor.contiguous() for name, tensor in checkpoint.method.items()}),
        OPTIMIZER: save_tensors({name: tensor.contiguous() for name, tensor in checkpoint.optimizer.items()}),
        STATE: json.dumps(checkpoint.state, indent=1).encode(),
    }
    return publish_checkpoint(run, checkpoint.step, files, keep)


def load_newest(run: Store, spec_hash: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with newer ones.

    Raises:
        CheckpointError: the newest whole checkpoint belongs to another spec.
    """
    _, files, rejected = newest_whole(run, spec_hash)
    if not files:
        return None, rejected
    state = json.loads(files[STATE])
    return Checkpoint(state, load_tensors(files[METHOD]), load_tensors(files[OPTIMIZER])), rejected


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state as tensors of their own called `<parameter name>/<state name>`, on the CPU.

    What is None is left out (SGD's momentum buffer before a parameter's first gradient); it comes back as
    None, since it is then not restored.
    """
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": torch.as_tensor(value).detach().to("cpu", copy=True)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
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
