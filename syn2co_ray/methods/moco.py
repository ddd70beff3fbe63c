"""MoCo v2: momentum contrast in one direction; SynCo: with synthesized negatives.

Chen et al., arXiv 2003.04297; SynCo: Giakoumoglou et al., arXiv 2410.02401. View 1 is the query, view 2 the
key; with temperature t and one queue of past keys:

    loss = mean InfoNCE(q, k, queue)
    q = unit(projector(encoder(view_1))),   k = unit(target(view_2)), no gradient, fixed momentum

The projector has two layers without batch norm, the hidden one as wide as the encoder's feature.

MoCo shuffles the keys of a batch over the workers, since batch norms with a worker's own statistics would let
query and key recognise each other by them. Here all batch norms take the statistics of the global batch
(batch_norm.py), the same for every row, so there is nothing to recognise and nothing is shuffled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from syn2co_ray.spec.method import MocoSpec

from .branches import Branches, build_branches
from .contract import MethodOutput, StepContext
from .heads import mlp_head
from .momentum import MomentumUpdate
from .queue import FeatureQueue
from .queue_contrast import QueueContrast, build_queue


class MoCo(QueueContrast):
    """See the module. `state_dict` holds both branches, the queue and the last momentum step."""

    def __init__(
        self, branches: Branches, queue: FeatureQueue, momentum: MomentumUpdate, spec: MocoSpec
    ) -> None:
        super().__init__(branches, momentum, spec)
        self.queue = queue

    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of two views of this rank's rows; see `Method.forward` and the module."""
        draws, scale, momentum = self.begin(views, step)
        k = self.target(views[1], "view_2", draws)
        q = self.online(views[0], "view_1", draws)
        with torch.autocast(views[0].device.type, enabled=False):
            losses, stats = self.contrast("view_1", q, k, self.queue, step, draws, labels)
        self.keep_keys(k, labels, step)
        loss = losses.sum() * scale
        stats["momentum"] = torch.tensor(momentum)
        return MethodOutput(loss, {"view_1": loss.detach()}, stats, pair=(q.detach(), k))

    def commit(self, step: StepContext) -> None:
        """Enqueue the global batch's keys of the forward pass of this step."""
        self.queue.enqueue(*self.kept_keys(step))


def build(spec: MocoSpec, image_size: int, seed: int) -> MoCo:
    """MoCo v2 or SynCo as the spec says, on the CPU, as a function of the arguments alone."""
    branches = build_branches(
        spec,
        image_size,
        seed,
        drop_path_target=spec.drop_path_target,
        projector=lambda width: mlp_head(
            width, spec.hidden_features or width, spec.output_features, hidden_norm=False
        ),
    )
    momentum = MomentumUpdate(spec.momentum, rises=False)
    return MoCo(branches, build_queue(spec, "queue", seed), momentum, spec)
