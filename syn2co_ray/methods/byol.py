"""BYOL: the online branch predicts the target's view of the other crop; no negatives.

Grill et al., arXiv 2006.07733. With views 1 and 2:

    loss = (mean (2 - 2 q_1.k_2) + mean (2 - 2 q_2.k_1)) / 2
    q_v = unit(predictor(projector(encoder(view_v)))),   k_v = unit(target(view_v)), no gradient

The paper sums both directions; half of it is what the published codes of MoBY and SynCo-v2 train, and the
learning rates of their recipes belong to that. Only the predictor and the moving target keep the encoder from
giving every image the same feature: watch `embedding/rankme`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from syn2co_ray.spec.method import ByolSpec

from .branches import TwoBranches, build_branches
from .contract import MethodOutput, StepContext
from .heads import mlp_head
from .momentum import MomentumUpdate


class BYOL(TwoBranches):
    """See the module."""

    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of two views of this rank's rows; see `Method.forward` and the module."""
        draws, scale, momentum = self.begin(views, step)
        k_1, k_2 = (self.target(view, f"view_{number}", draws) for number, view in enumerate(views, 1))
        q_1, q_2 = (self.online(view, f"view_{number}", draws) for number, view in enumerate(views, 1))
        with torch.autocast(views[0].device.type, enabled=False):
            cosine_1, cosine_2 = (q_1 * k_2).sum(dim=1), (q_2 * k_1).sum(dim=1)
            part_1 = (1.0 - cosine_1).sum() * scale
            part_2 = (1.0 - cosine_2).sum() * scale
        stats = {
            "positive/logit": (cosine_1.detach().mean() + cosine_2.detach().mean()) / 2,
            "momentum": torch.tensor(momentum),
        }
        parts = {"view_1": part_1.detach(), "view_2": part_2.detach()}
        return MethodOutput(part_1 + part_2, parts, stats, pair=(q_1.detach(), k_2))

    def commit(self, step: StepContext) -> None:
        """Nothing: BYOL keeps no keys."""


def build(spec: ByolSpec, image_size: int, seed: int) -> BYOL:
    """BYOL as the spec says."""
    branches = build_branches(
        spec,
        image_size,
        seed,
        drop_path_target=spec.drop_path_target,
        projector=lambda width: mlp_head(width, spec.hidden_features, spec.output_features),
        predictor=lambda: mlp_head(spec.output_features, spec.hidden_features, spec.output_features),
    )
    return BYOL(branches, MomentumUpdate(spec.momentum))
