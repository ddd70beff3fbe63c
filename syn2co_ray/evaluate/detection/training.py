"""Training of a detector: a loop in one process that can be stopped and goes on from its checkpoint.

Order, scale, crop and flip derive from (seed, epoch, file), what torchvision samples among the proposals from
(seed, step): on a CPU a training that was stopped and resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from ...data.randomness import named_generator
from ...spec.detection import DetectionSpec
from ...spec.errors import DataError, TrainingError
from ...storage import Store
from ...train.checkpoint import Checkpoint, load_newest, optimizer_tensors, restore_optimizer, save_checkpoint
from .annotations import AnnotatedSet
from .images import Sample, Unreadable, batches, grouped
from .network import Detector, parameter_groups, seed_step

WARMUP_SHARE = 0.1
LOSS_WEIGHT = 0.05
"""Of a step in the loss that is shown."""


@dataclass
class Progressed:
    """Where a training is."""

    step: int = 0
    total: int = 0
    loss: float = math.nan
    """A running mean."""
    images_per_s: float = 0.0
    images_per_step: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    """File -> why it was left out."""


class Stopped(Exception):
    """The training was asked to stop; its checkpoint is whole."""


def train_detector(
    detector: Detector,
    images: AnnotatedSet,
    spec: DetectionSpec,
    seed: int,
    device: torch.device,
    place: Store,
    identity: str,
    show: Callable[[Progressed], None],
    should_stop: Callable[[], bool],
) -> Progressed:
    """Train in place, from the newest checkpoint in `place` where there is one; leaves one at the end.

    Args:
        detector: on `device`.
        images: what it learns from.
        spec: steps and rates.
        seed: decides order, views and samples.
        device: where it learns.
        place: folder that gets `checkpoints/`.
        identity: a checkpoint of another one is refused.
        show: called after each step; may not raise.
        should_stop: asked after each step.

    Raises:
        Stopped: asked to, after a checkpoint.
        TrainingError: the loss is not finite.
        DataError: too many images cannot be decoded.
        CheckpointError: the newest checkpoint is of another job.
    """
    optimizer = torch.optim.AdamW(parameter_groups(detector, spec), lr=spec.learning_rate)
    per_epoch = math.ceil(len(images.images) / spec.images_per_step)
    now = Progressed(total=spec.epochs * per_epoch, images_per_step=spec.images_per_step)
    found, _ = load_newest(place, identity)
    if found is not None:
        detector.load_state_dict(found.method)
        restore_optimizer(detector, optimizer, found.optimizer)
        now.step, now.loss = found.step, found.state["loss"]
        now.unreadable = dict(found.state["unreadable"])
    detector.train()
    started, begun = time.perf_counter(), now.step
    seen = 0
    for group in batches(images, _plan(len(images.images), spec, seed, now.step), spec, seed):
        samples = [sample for sample in group if isinstance(sample, Sample)]
        now.unreadable |= {bad.file: bad.reason for bad in group if isinstance(bad, Unreadable)}
        check_readable(images, now.unreadable, spec)
        if samples:
            loss = _step(detector, optimizer, samples, spec, seed, now, device)
            weight = LOSS_WEIGHT if math.isfinite(now.loss) else 1.0
            now.loss = loss if weight == 1.0 else (1 - weight) * now.loss + weight * loss
        now.step += 1
        seen += len(samples)
        now.images_per_s = seen / (time.perf_counter() - started)
        stopping = should_stop() and now.step < now.total
        if stopping or now.step == now.total or now.step % spec.checkpoint_every_steps == 0:
            _save(detector, optimizer, now, place, identity)
        show(now)
        if stopping:
            raise Stopped
    if begun == now.total:
        show(now)
    detector.eval()
    return now


def check_readable(images: AnnotatedSet, unreadable: dict[str, str], spec: DetectionSpec) -> None:
    """Raises DataError when more of a set's images than allowed turned out to be unusable."""
    if len(unreadable) > spec.left_out_share_max * len(images.images):
        file, reason = next(iter(unreadable.items()))
        raise DataError(
            images.store.uri,
            f"{len(unreadable)} of {len(images.images)} images cannot be used, such as {file}: {reason}",
            f"at most {spec.left_out_share_max:.1%} (detection.left_out_share_max)",
            "mend the set or raise that share",
        )


def rate_at(step: int, total: int) -> float:
    """Learning rate of a step, from 0, as part of the peak."""
    warmup = max(1, round(WARMUP_SHARE * total))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, total - warmup))


def _plan(images: int, spec: DetectionSpec, seed: int, step: int) -> Iterator[list[tuple[int, int | None]]]:
    """Image numbers with their epoch, step by step, from `step` on."""
    per_epoch = math.ceil(images / spec.images_per_step)
    for epoch in range(step // per_epoch, spec.epochs):
        order = named_generator(seed, "detection", "order", epoch).permutation(images)
        groups = list(grouped(order.tolist(), spec.images_per_step))
        for group in groups[step - epoch * per_epoch if epoch == step // per_epoch else 0 :]:
            yield [(number, epoch) for number in group]


def _step(
    detector: Detector,
    optimizer: torch.optim.Optimizer,
    samples: list[Sample],
    spec: DetectionSpec,
    seed: int,
    now: Progressed,
    device: torch.device,
) -> float:
    seed_step(seed, now.step)
    pixels = torch.stack([sample.pixels for sample in samples]).to(device)
    truth = [{name: value.to(device) for name, value in sample.truth.items()} for sample in samples]
    parts = detector(pixels, truth)
    loss = torch.stack(list(parts.values())).sum()
    value = float(loss.detach())
    if not math.isfinite(value):
        told = ", ".join(f"{name} {float(part.detach()):.3g}" for name, part in parts.items())
        raise TrainingError(
            "detection",
            f"a loss of {value} in step {now.step} ({told})",
            "a finite loss",
            "lower detection.learning_rate",
        )
    for group in optimizer.param_groups:
        group["lr"] = spec.learning_rate * group["lr_scale"] * rate_at(now.step, now.total)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(detector.parameters(), spec.gradient_clip_norm)
    optimizer.step()
    return value


def _save(
    detector: Detector, optimizer: torch.optim.Optimizer, now: Progressed, place: Store, identity: str
) -> None:
    state = {"step": now.step, "spec_hash": identity, "loss": now.loss, "unreadable": now.unreadable}
    tensors = {name: tensor.detach().cpu() for name, tensor in detector.state_dict().items()}
    save_checkpoint(place, Checkpoint(state, tensors, optimizer_tensors(detector, optimizer)), keep=1)
