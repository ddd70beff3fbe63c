"""One optimizer step: forward, backward, clip, update; and the state that a checkpoint holds."""

from __future__ import annotations

import contextlib
import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..data.stream import StepRecords
from ..methods import Method, StepContext, build_method
from ..methods.compat import learning_rate_steps_late
from ..methods.embedding_stats import embedding_stats
from ..methods.execution import compile_encoders, encode_in_parts, recompute_blocks, use_channels_last
from ..methods.normalise import normalise
from ..spec.generator_method import LoraSpec
from ..spec.job import TrainingSpec
from ..spec.method import ClassifierSpec
from ..spec.probe import LinearGridMethodSpec
from .checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from .context import TrainContext
from .labels import class_numbers, held_out, label_numbers
from .optimizer import Schedule, build_optimizer

_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
NO_BUFFER_BROADCAST: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}
"""Queues and batch statistics are equal on all ranks by construction: there is nothing to broadcast.
(torch renamed the argument in 2.14 or so; both names are tried so that 2.11 works as well.)"""

TELEMETRY_EVERY_STEPS = 20
"""A look at negatives and embeddings may cost as much as the loss itself, or some tens of milliseconds on a
GPU (singular values): well under 1 % of 20 steps."""


@dataclass(frozen=True)
class StepOutcome:
    """What a step gave; loss is the mean over the global batch, the norm is that before clipping."""

    loss: float
    gradient_norm: float
    learning_rate: float
    skipped: bool
    stats: dict[str, torch.Tensor]


class StepTrainer:
    """The method, its optimizer and schedules on one rank."""

    def __init__(self, job: TrainingSpec, context: TrainContext, steps_per_epoch: int) -> None:
        self.job = job
        self.context = context
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = steps_per_epoch * job.train.epochs
        self.images_per_rank = job.train.images_per_step_global // context.world_size
        self.method: Method = build_method(job.method, job.augment.image_size, job.seed).to(context.device)
        self._switch_execution()
        self.optimizer = build_optimizer(
            self.method, job.train.optimizer, self.method.learning_rate_factors()
        )
        self.schedule = Schedule(
            job.train.optimizer,
            steps_per_epoch,
            self.total_steps,
            job.train.images_per_step_global,
            steps_late=learning_rate_steps_late(job.method),
        )
        self.model: nn.Module = self._distributed()
        self.autocast_dtype = _autocast_dtype(job.train.precision, context.device)

    def _switch_execution(self) -> None:
        if self.job.train.compile:
            compile_encoders(self.method, by_block=self.job.train.gradient_checkpointing)
        if self.job.train.gradient_checkpointing:
            recompute_blocks(self.method)
        if self.job.train.images_per_pass_max is not None:
            encode_in_parts(self.method, self.job.train.images_per_pass_max)
        if self.job.train.channels_last:
            use_channels_last(self.method)

    def _distributed(self) -> nn.Module:
        if self.context.world_size == 1:
            return self.method
        devices = [self.context.device.index] if self.context.device.type == "cuda" else None
        return DistributedDataParallel(self.method, device_ids=devices, **NO_BUFFER_BROADCAST)

    def train_step(self, records: StepRecords, labels: np.ndarray) -> StepOutcome:
        """Train on this rank's rows of a global step; `labels` (n,) int64 are theirs, from `labels`.

        A step whose loss or gradient is not finite trains nothing: no update, no enqueue, and batch
        statistics are put back. Only the target has moved on: that comes before the loss.
        """
        step = records.step
        rate = self.schedule.apply(self.optimizer, step)
        place = StepContext(
            seed=self.job.seed,
            step=step,
            epoch=step // self.steps_per_epoch,
            total_steps=self.total_steps,
            images_per_step_global=self.job.train.images_per_step_global,
            first_row=self.context.rank * self.images_per_rank,
            group=None,
            images_per_epoch=self.job.data.images_per_epoch,
            held_out=self._held_out(records),
            telemetry=step % TELEMETRY_EVERY_STEPS == 0,
        )
        statistics = _running_statistics(self.method)
        with self._autocast():
            output = self.model(self._views(records), place, self._on_device(labels))
        self.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        self.method.before_update(place)
        norm = nn.utils.clip_grad_norm_(
            [p for p in self.method.parameters() if p.requires_grad],
            self.job.train.optimizer.gradient_clip_norm or math.inf,
        ).item()
        (loss_sum,) = self.context.summed(output.loss.item())
        loss = loss_sum / self.context.world_size
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            self.optimizer.step()
            self.method.commit(place)
        else:
            _restore(statistics)
        stats = output.stats
        if place.telemetry:
            stats = stats | {f"loss/{name}": part for name, part in output.parts.items()}
            if finite and output.pair is not None:
                stats = stats | embedding_stats(*output.pair)
        return StepOutcome(loss, norm, rate, not finite, stats)

    def _views(self, records: StepRecords) -> list[torch.Tensor]:
        """Views, each (n, 3, H, W) float32, normalised, on the device."""
        views = [view for group in records.views for view in _device_views(group, self.context.device)]
        if self.job.train.channels_last:
            views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        return views

    def _on_device(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.context.device, non_blocking=True)

    def labels(self, records: StepRecords) -> np.ndarray:
        """(n,) int64 numbers of the records' labels, as the method wants them.

        Raises:
            DataError: a label that is not one of the method's classes.
        """
        spec = self.job.method
        if isinstance(spec, ClassifierSpec | LoraSpec) and spec.classes:
            return class_numbers(records.labels, records.keys, spec.classes)
        return label_numbers(records.labels)

    def _held_out(self, records: StepRecords) -> torch.Tensor | None:
        if not isinstance(self.job.method, LinearGridMethodSpec):
            return None
        return self._on_device(held_out(records.keys, self.job.seed))

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.context.device.type, dtype=self.autocast_dtype)

    def state(self, extra: dict[str, Any]) -> Checkpoint:
        """Everything for an identical continuation; `extra` goes into state.json."""
        return Checkpoint(
            extra,
            {name: tensor.detach().cpu().clone() for name, tensor in self.method.state_dict().items()},
            optimizer_tensors(self.method, self.optimizer),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint (of the same spec: keys must match exactly)."""
        self.method.load_state_dict(checkpoint.method)
        restore_optimizer(self.method, self.optimizer, checkpoint.optimizer)


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.bfloat16
    return None


def _device_views(views: np.ndarray, device: torch.device) -> list[torch.Tensor]:
    """uint8 (n, V, 3, H, W) on the host -> V float tensors (n, 3, H, W), normalised on the device."""
    # Blocks are read-only shared memory; torch only reads them here.
    moved = torch.from_numpy(views if views.flags.writeable else views.copy()).to(device, non_blocking=True)
    return [normalise(moved[:, view]) for view in range(moved.shape[1])]


def _running_statistics(method: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    named = [
        (name, buffer)
        for name, buffer in method.named_buffers()
        if "running_" in name or "num_batches" in name
    ]
    return [(buffer, buffer.clone()) for _, buffer in named]


def _restore(statistics: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for buffer, before in statistics:
        buffer.copy_(before)
