"""MoBY: momentum contrast in both directions, with asymmetric branches; SynBY: with synthesized negatives.

Xie et al., arXiv 2105.04553. With views 1 and 2, temperature t and one queue of past keys a view:

    loss = mean InfoNCE(q_1, k_2, queue_2) + mean InfoNCE(q_2, k_1, queue_1)
    q_v = unit(predictor(projector(encoder(view_v)))),   k_v = unit(target(view_v)), no gradient

Order of a step: target update (momentum.py), keys, queries, loss; backward and optimizer outside; then
`commit` writes k_1 into queue_1 and k_2 into queue_2.

SynBY (Giakoumoglou et al., SynCo-v2, arXiv 2509.02024): each query meets, beside its positive and the queue,
negatives synthesized from its hardest queue entries (negatives/), which carry no gradient of their own, in
the epochs of `active_epochs`, first and last included, counted from 0 in real epochs of the run. Trained on
real and generated images together it is Syn2Co (arXiv 2509.02029); the data decides that. Where the published
code does something else, see compat.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from syn2co_ray.spec.method import MobySpec

from .branches import Branches, build_branches
from .compat import start_vit
from .contract import MethodOutput, StepContext
from .heads import mlp_head
from .momentum import MomentumUpdate
from .queue import FeatureQueue
from .queue_contrast import QueueContrast, build_queue


class MoBY(QueueContrast):
    """See the module. `state_dict` holds both branches, both queues and the last momentum step."""

    def __init__(
        self,
        branches: Branches,
        queues: tuple[FeatureQueue, FeatureQueue],
        momentum: MomentumUpdate,
        spec: MobySpec,
    ) -> None:
        super().__init__(branches, momentum, spec)
        self.queue_1, self.queue_2 = queues

    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of two views of this rank's rows; see `Method.forward` and the module."""
        draws, scale, momentum = self.begin(views, step)
        k_1, k_2 = (self.target(view, f"view_{number}", draws) for number, view in enumerate(views, 1))
        q_1, q_2 = (self.online(view, f"view_{number}", draws) for number, view in enumerate(views, 1))
        with torch.autocast(views[0].device.type, enabled=False):
            loss_1, stats_1 = self.contrast("view_1", q_1, k_2, self.queue_2, step, draws, labels)
            loss_2, stats_2 = self.contrast("view_2", q_2, k_1, self.queue_1, step, draws, labels)
        part_1, part_2 = loss_1.sum() * scale, loss_2.sum() * scale
        self.keep_keys(torch.stack([k_1, k_2], 1), labels, step)
        stats = {name: _of_both(name, stats_1[name], stats_2[name]) for name in stats_1}
        stats["momentum"] = torch.tensor(momentum)
        parts = {"view_1": part_1.detach(), "view_2": part_2.detach()}
        return MethodOutput(part_1 + part_2, parts, stats, pair=(q_1.detach(), k_2))

    def commit(self, step: StepContext) -> None:
        """Enqueue the global batch's keys of the forward pass of this step."""
        keys, labels = self.kept_keys(step)
        self.queue_1.enqueue(keys[:, 0], labels)
        self.queue_2.enqueue(keys[:, 1], labels)


def _of_both(name: str, first: Tensor, second: Tensor) -> Tensor:
    """A figure of both directions."""
    return torch.maximum(first, second) if name.endswith("logit_max") else (first + second) / 2


def build(spec: MobySpec, image_size: int, seed: int) -> MoBY:
    """MoBY or SynBY as the spec says, on the CPU, as a function of the arguments alone."""
    branches = build_branches(
        spec,
        image_size,
        seed,
        drop_path_target=spec.drop_path_target,
        projector=lambda width: mlp_head(width, spec.hidden_features, spec.output_features),
        predictor=lambda: mlp_head(spec.output_features, spec.hidden_features, spec.output_features),
        start=lambda encoder: start_vit(spec, encoder),
    )
    queues = (build_queue(spec, "queue_1", seed), build_queue(spec, "queue_2", seed))
    return MoBY(branches, queues, MomentumUpdate(spec.momentum), spec)
