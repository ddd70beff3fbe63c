"""Training of a detector on one rank or many; it can be stopped and goes on from its checkpoint.

Order, scale, crop and flip derive from (seed, epoch, file), and so does what is learned from in an image.
Each part of the loss is the mean over the whole step, whatever the ranks found to learn from: N ranks train
as one does, up to float error, and on a CPU a training that was stopped and resumed equals one that was not,
bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...data.randomness import named_generator
from ...methods.batch_norm import replace_batch_norm
from ...spec.detection import DetectionSpec
from ...spec.errors import DataError, TrainingError
from ...storage import Store
from ...train.checkpoint import Checkpoint, load_newest, optimizer_tensors, restore_optimizer, save_checkpoint
from ...train.context import TrainContext
from .annotations import AnnotatedSet
from .images import Sample, Unreadable, batches, empty_square, grouped
from .network import PARTS, Detector, parameter_groups
from .ranks import heed, own_part

WARMUP_SHARE = 0.1


@dataclass
class Progressed:
    """Where a training is."""

    step: int = 0
    total: int = 0
    loss: float = math.nan
    """Of the newest step."""
    gradient_norm: float = math.nan
    rate: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)
    """File -> why it was left out."""


class DetectorTraining:
    """Trains in place, from the newest checkpoint where there is one; leaves one at the end."""

    def __init__(
        self,
        detector: Detector,
        images: AnnotatedSet,
        spec: DetectionSpec,
        seed: int,
        ranks: TrainContext,
        place: Store,
        identity: str,
    ) -> None:
        """Prepare it; `run` does it.

        Args:
            detector: on the rank's device.
            images: what it learns from.
            spec: steps and rates.
            seed: decides order, views and samples.
            ranks: all that train; the first is shown the steps, and its wishes are heeded.
            place: folder that gets `checkpoints/`.
            identity: a checkpoint of another one is refused.
        """
        if ranks.world_size > 1:
            replace_batch_norm(detector, "weights.backbone")
        self.detector, self.images, self.spec, self.seed = detector, images, spec, seed
        self.ranks, self.place, self.identity = ranks, place, identity
        self.optimizer = torch.optim.AdamW(parameter_groups(detector, spec), lr=spec.learning_rate)
        self.per_epoch = math.ceil(len(images.images) / spec.images_per_step)
        self.now = Progressed(total=spec.epochs * self.per_epoch)
        self.saved_at: int | None = None
        self.totals = {"steps": 0.0, "images": 0.0, "step_seconds": 0.0, "data_wait_seconds": 0.0}

    def run(self) -> Progressed:
        """All steps that are left.

        Raises:
            Stopped: asked to, after a checkpoint.
            TrainingError: the loss is not finite.
            DataError: too many images cannot be decoded.
            CheckpointError: the newest checkpoint is of another job.
        """
        self._resume()
        self.detector.train()
        mine = (own_part(group, self.ranks) for group in self._plan())
        waiting = time.perf_counter()
        for group in batches(self.images, mine, self.spec, self.seed):
            started = time.perf_counter()
            self._step(group)
            ended = time.perf_counter()
            self._show(ended - waiting, started - waiting)
            if self.now.step == self.now.total or self.now.step % self.spec.checkpoint_every_steps == 0:
                self._save()
            heed(self.ranks, self.now.step, self._save)
            waiting = time.perf_counter()
        self.detector.eval()
        return self.now

    def _resume(self) -> None:
        found, _ = load_newest(self.place, self.identity)
        if found is None:
            return
        self.detector.load_state_dict(found.method)
        restore_optimizer(self.detector, self.optimizer, found.optimizer)
        self.now.step = self.saved_at = found.step
        self.now.loss, self.now.unreadable = found.state["loss"], dict(found.state["unreadable"])

    def _plan(self) -> Iterator[list[tuple[int, int | None]]]:
        """Image numbers with their epoch, step by step, from the next one on."""
        first = self.now.step
        for epoch in range(first // self.per_epoch, self.spec.epochs):
            order = named_generator(self.seed, "detection", "order", epoch).permutation(
                len(self.images.images)
            )
            groups = list(grouped(order.tolist(), self.spec.images_per_step))
            for group in groups[first - epoch * self.per_epoch if epoch == first // self.per_epoch else 0 :]:
                yield [(number, epoch) for number in group]

    def _step(self, group: list[Sample | Unreadable]) -> None:
        samples = [sample for sample in group if isinstance(sample, Sample)]
        bad = {one.file: one.reason for one in group if isinstance(one, Unreadable)}
        parts = self._parts(samples or [empty_square(self.spec)])
        counted = self.detector.counted()
        here = [counted[PARTS[name]] * bool(samples) for name in parts]
        *everywhere, bad_global = self.ranks.summed(*here, len(bad))
        if bad_global:
            for found in self.ranks.gathered(bad):
                self.now.unreadable |= found
            check_readable(self.images, self.now.unreadable, self.spec)
        shares = [own / max(1.0, all_) for own, all_ in zip(here, everywhere, strict=True)]
        losses = torch.stack(list(parts.values()))
        loss = (losses * losses.new_tensor(shares)).sum()
        self.now.rate = self.spec.learning_rate * rate_at(self.now.step, self.now.total)
        for options in self.optimizer.param_groups:
            options["lr"] = options["lr_scale"] * self.now.rate
        self.optimizer.zero_grad()
        loss.backward()
        self._sum_gradients()
        norm = nn.utils.clip_grad_norm_(self.detector.parameters(), self.spec.gradient_clip_norm)
        (self.now.loss,) = self.ranks.summed(float(loss.detach()))
        self.now.gradient_norm = float(norm)
        self._check_finite(parts)
        self.optimizer.step()
        self.now.step += 1

    def _parts(self, samples: list[Sample]) -> dict[str, Tensor]:
        """Losses by name, each a mean over this rank's images."""
        device = self.ranks.device
        pixels = torch.stack([sample.pixels for sample in samples]).to(device)
        truth = [{name: value.to(device) for name, value in sample.truth.items()} for sample in samples]
        parts: dict[str, Tensor] = self.detector(pixels, truth, [sample.seed for sample in samples])
        return {name: parts[name] for name in PARTS if name in parts}

    def _sum_gradients(self) -> None:
        """Over the ranks; all at once, since a step of a detector is long."""
        if self.ranks.world_size == 1:
            return
        gradients = [p.grad for p in self.detector.parameters() if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        parts = together.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _check_finite(self, parts: dict[str, Tensor]) -> None:
        if math.isfinite(self.now.loss) and math.isfinite(self.now.gradient_norm):
            return
        told = ", ".join(f"{name} {float(part.detach()):.3g}" for name, part in parts.items())
        raise TrainingError(
            "detection",
            f"a loss of {self.now.loss} and a gradient of norm {self.now.gradient_norm} in step "
            f"{self.now.step} (rank {self.ranks.rank}: {told})",
            "finite ones",
            "lower detection.learning_rate",
        )

    def _show(self, step_s: float, waited_s: float) -> None:
        """A row as the training loop shows it (see `train.loop`)."""
        epoch = (self.now.step - 1) // self.per_epoch
        images = min(
            self.spec.images_per_step,
            len(self.images.images) - (self.now.step - 1) % self.per_epoch * self.spec.images_per_step,
        )
        done = {"steps": 1, "images": images, "step_seconds": step_s, "data_wait_seconds": waited_s}
        self.totals = {name: total + done[name] for name, total in self.totals.items()}
        self.ranks.show(
            {
                "step": self.now.step,
                "total_steps": self.now.total,
                "epoch": epoch,
                "epochs": self.spec.epochs,
                "loss": self.now.loss,
                "learning_rate": self.now.rate,
                "gradient_norm": self.now.gradient_norm,
                "images_per_s": images / step_s,
                "step_time_s": step_s,
                "data_wait_share": waited_s / step_s,
                "skipped": False,
                "workers": self.ranks.world_size,
                "totals": self.totals,
                "newest_stats": {},
            }
        )

    def _save(self) -> None:
        """Once a step; rank 0 writes."""
        if self.ranks.rank != 0 or self.saved_at == self.now.step:
            return
        now, detector = self.now, self.detector
        state = {
            "step": now.step,
            "spec_hash": self.identity,
            "loss": now.loss,
            "unreadable": now.unreadable,
        }
        tensors = {name: tensor.detach().cpu() for name, tensor in detector.state_dict().items()}
        optimizer = optimizer_tensors(detector, self.optimizer)
        save_checkpoint(self.place, Checkpoint(state, tensors, optimizer), keep=1)
        self.saved_at = now.step
        self.ranks.show({"checkpoint": now.step})


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
