"""MoCo v3: contrast against the keys of the other images of the global batch; no queue.

Chen et al., arXiv 2104.02057, algorithm 1. With views 1 and 2, temperature t and the keys of all N images of
the step, gathered from all ranks:

    loss = 2 t (mean CE(q_1 K_2^T / t, own row) + mean CE(q_2 K_1^T / t, own row))
    q_v = unit(predictor(projector(encoder(view_v)))),   K_v = unit(target(view_v)), no gradient

The patch projection of a ViT stays at its random start (section 4.3): its gradient is where instability
begins. Networks without one have nothing to freeze; asking for it in words is refused. A ViT starts with the
weights of the published code (`use_moco_v3_weights`): what never learns keeps its spread.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from syn2co_ray.spec.errors import Fault, SpecError
from syn2co_ray.spec.method import MocoV3Spec

from .branches import Branches, TwoBranches, build_branches
from .collective import gather_rows
from .contract import MethodOutput, StepContext
from .encoders import patch_projection, use_moco_v3_weights
from .heads import mlp_head
from .momentum import MomentumUpdate


class MoCoV3(TwoBranches):
    """See the module."""

    def __init__(self, branches: Branches, momentum: MomentumUpdate, temperature: float) -> None:
        super().__init__(branches, momentum)
        self.temperature = temperature

    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of two views of this rank's rows; see `Method.forward` and the module."""
        draws, scale, momentum = self.begin(views, step)
        k_1, k_2 = (self.target(view, f"view_{number}", draws) for number, view in enumerate(views, 1))
        q_1, q_2 = (self.online(view, f"view_{number}", draws) for number, view in enumerate(views, 1))
        keys = gather_rows(
            torch.stack([k_1, k_2], 1), step.first_row, step.images_per_step_global, step.group
        )
        with torch.autocast(views[0].device.type, enabled=False):
            loss_1, stats_1 = self._direction(q_1, keys[:, 1], step.first_row)
            loss_2, stats_2 = self._direction(q_2, keys[:, 0], step.first_row)
            part_1, part_2 = loss_1.sum() * scale, loss_2.sum() * scale
        stats = {name: (stats_1[name] + stats_2[name]) / 2 for name in stats_1}
        stats["momentum"] = torch.tensor(momentum)
        parts = {"view_1": part_1.detach(), "view_2": part_2.detach()}
        return MethodOutput(part_1 + part_2, parts, stats, pair=(q_1.detach(), k_2))

    def commit(self, step: StepContext) -> None:
        """Nothing: the keys serve in their own step only."""

    def _direction(self, q: Tensor, keys: Tensor, first_row: int) -> tuple[Tensor, dict[str, Tensor]]:
        """2 t CE of queries (n, C) against the global batch's keys (N, C); the own row is the positive."""
        logits = q @ keys.T
        own = torch.arange(first_row, first_row + len(q), device=q.device)
        loss = F.cross_entropy(logits / self.temperature, own, reduction="none")
        positive = logits.detach().gather(1, own.unsqueeze(1))
        stats = {
            "positive/logit": positive.mean(),
            "negatives/batch/harder": (logits.detach() > positive).float().mean(),
        }
        return 2.0 * self.temperature * loss, stats


def build(spec: MocoV3Spec, image_size: int, seed: int) -> MoCoV3:
    """MoCo v3 as the spec says.

    Raises:
        SpecError: a patch projection is to be frozen in a backbone that has none.
    """
    hidden, width_out = spec.hidden_features, spec.output_features
    branches = build_branches(
        spec,
        image_size,
        seed,
        drop_path_target=spec.drop_path_target,
        projector=lambda width: mlp_head(width, hidden, width_out, layers=3, output_norm=True),
        predictor=lambda: mlp_head(width_out, hidden, width_out, output_norm=True),
        start=use_moco_v3_weights,
    )
    if spec.freeze_patch_projection is not False:
        _freeze_patch_projection(branches, spec)
    return MoCoV3(branches, MomentumUpdate(spec.momentum), spec.temperature)


def _freeze_patch_projection(branches: Branches, spec: MocoV3Spec) -> None:
    projection = patch_projection(branches.encoder)
    if projection is not None:
        projection.requires_grad_(False)
    elif spec.freeze_patch_projection:
        fault = Fault(
            "method.freeze_patch_projection",
            f"true, but {spec.backbone} has no patch projection",
            "true for ViT-like backbones",
            "leave it out or set it to false",
        )
        raise SpecError([fault])
