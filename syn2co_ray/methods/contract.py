"""What a framework gives to the trainer, and what the trainer tells it.

    output = method(views, step)      # forward: target update, features, loss
    output.loss.backward()
    method.before_update(step)        # may change gradients
    optimizer.step()                  # only when loss and gradients are finite
    method.commit(step)               # only after a good optimizer step: enqueue the step's keys

The method holds all state of the science (both encoders, heads, queues with their pointers, step of
the last momentum update) in its `state_dict`. It runs without a process group, and under
`DistributedDataParallel(method, broadcast_buffers=False)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from syn2co_ray.spec.errors import Syn2coError

from .collective import ranks_in


@dataclass(frozen=True)
class StepContext:
    """Where in the run, and which rows of the global batch, a forward pass is."""

    seed: int
    """Seed of the run."""
    step: int
    """Global optimizer step, from 0."""
    epoch: int
    """Epoch of the plan, from 0."""
    total_steps: int
    """Steps of the whole run."""
    images_per_step_global: int
    """Rows of the global batch, over all ranks."""
    first_row: int = 0
    """This rank's rows are [first_row, first_row + rows of its views)."""
    group: ProcessGroup | None = None
    """Ranks that share the step. None: the default group when one is initialised, else this process."""
    images_per_epoch: int | None = None
    """`data.images_per_epoch`; None when the job leaves it to its sources."""
    held_out: Tensor | None = None
    """(n,) bool, this rank's rows that choose between classifiers; None where nothing is chosen."""
    telemetry: bool = True
    """Whether to look closely at the negatives in this step; nothing that is trained depends on it."""

    def loss_scale(self, rows: int) -> float:
        """Factor on the SUM of this rank's `rows` losses, so that DDP's mean over ranks is the global mean.

        It is 1 / rows when all ranks hold equally many rows, and right also when they do not.

        Raises:
            Syn2coError: the rows do not fit into the global batch.
        """
        ranks, last = ranks_in(self.group), self.first_row + rows
        alone_and_partial = ranks == 1 and rows != self.images_per_step_global
        if rows < 1 or self.first_row < 0 or last > self.images_per_step_global or alone_and_partial:
            raise Syn2coError(
                "train.images_per_step_global",
                f"{self.images_per_step_global}, but 1 of {ranks} ranks got rows {self.first_row} to {last}",
                "the ranks' rows, joined, are the global batch",
                "give every rank its own slice of the step and its first row",
            )
        return ranks / self.images_per_step_global


@dataclass
class MethodOutput:
    """Result of one forward pass on this rank's rows."""

    loss: Tensor
    """Scalar with gradient, float32 (float64 in a float64 method); its mean over ranks is the global loss."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """The terms that sum up to the loss; detached scalars."""
    stats: dict[str, Tensor] = field(default_factory=dict)
    """Telemetry of this rank's rows; detached scalars."""
    pair: tuple[Tensor, Tensor] | None = None
    """Online and target embeddings of this rank's rows that should agree, unit rows (n, C), detached; the
    trainer derives alignment, uniformity and rank from them."""


class Method(nn.Module, ABC):
    """A self-supervised framework: views in, loss out."""

    encoder: nn.Module
    """Online backbone, the network a run is for: (n, 3, H, W) -> (n, num_features)."""

    @abstractmethod
    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of this rank's views, each (n, 3, H, W), float, normalised.

        Labels (n,) int64, -1 where unknown, are for telemetry, and for the supervised yardstick; whether they
        are given must not differ between ranks.

        Moves the target network first, at most once a step number: a repeated forward of the same
        step (a retry) finds the target already moved. Queues are only read.
        """

    def learning_rate_factors(self) -> dict[str, float]:
        """Names of parameters -> factor on the schedule's rate; 1 for those that are left out."""
        return {}

    def before_update(self, step: StepContext) -> None:
        """Change gradients before they are clipped and used; most frameworks do not."""

    @abstractmethod
    def commit(self, step: StepContext) -> None:
        """Make the last forward's keys part of the queues; call it after backward and a good optimizer step.

        A step that is not committed leaves no trace in the queues.
        """

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Evaluation features of the online encoder: (n, 3, H, W) -> (n, num_features), at least float32.

        Runs in eval mode (no drop path, running batch-norm statistics) and restores the mode after.
        """
        was_training = self.encoder.training
        self.encoder.eval()
        try:
            features = self.encoder(images)
        finally:
            self.encoder.train(was_training)
        return features.to(torch.promote_types(features.dtype, torch.float32))
