"""MoBY: momentum contrast in both directions, with asymmetric encoders.

Xie et al., arXiv 2105.04553. Online branch: encoder, projector, predictor. Target branch: moving average
of encoder and projector. With views 1 and 2, temperature t and one queue of past keys a view:

    loss = mean InfoNCE(q_1, k_2, queue_2) + mean InfoNCE(q_2, k_1, queue_1)
    q_v = unit(predictor(projector(encoder(view_v)))),   k_v = unit(target(view_v)), no gradient

Order of a step: target update (momentum.py), keys, queries, loss; backward and optimizer outside; then
`commit` writes k_1 into queue_1 and k_2 into queue_2. Views pass one at a time, so batch norm sees one view.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Generator, Tensor, nn

from syn2co_ray.spec.errors import Fault, SpecError, Syn2coError
from syn2co_ray.spec.method import MobySpec

from .backbones import build_backbone, num_features
from .batch_norm import set_process_group
from .collective import gather_rows
from .contract import Method, MethodOutput, StepContext
from .draws import RowDraws, seed_of, seeded_initialisation
from .drop_path import draw_drop_path
from .heads import mlp_head
from .losses import info_nce, softmax_mass, unit
from .momentum import MomentumUpdate
from .queue import FeatureQueue


@dataclass(frozen=True)
class Networks:
    """The parts of MoBY. The target is a copy of the online branch at the start, and gets no gradient."""

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module
    target_encoder: nn.Module
    target_projector: nn.Module
    queue_1: FeatureQueue
    queue_2: FeatureQueue


class MoBY(Method):
    """See the module. `state_dict` holds both branches, both queues and the last momentum step."""

    def __init__(self, networks: Networks, temperature: float, momentum_base: float) -> None:
        super().__init__()
        self.encoder = networks.encoder
        self.projector = networks.projector
        self.predictor = networks.predictor
        self.target_encoder = networks.target_encoder.requires_grad_(False)
        self.target_projector = networks.target_projector.requires_grad_(False)
        self.queue_1, self.queue_2 = networks.queue_1, networks.queue_2
        self.momentum = MomentumUpdate(momentum_base)
        self.temperature = temperature
        self._uncommitted: tuple[int, Tensor] | None = None

    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of two views of this rank's rows; see `Method.forward` and the module."""
        if len(views) != 2:
            raise Syn2coError("augment.recipe", f"{len(views)} views", "2 views", "choose a two-view recipe")
        scale = step.loss_scale(len(views[0]))
        set_process_group(self, step.group)
        draws = RowDraws(step.seed, step.step, step.first_row, len(views[0]), views[0].device)
        momentum = self._update_target(step)
        k_1, k_2 = (self._key(view, f"view_{number}", draws) for number, view in enumerate(views, 1))
        q_1, q_2 = (self._query(view, f"view_{number}", draws) for number, view in enumerate(views, 1))
        with torch.autocast(views[0].device.type, enabled=False):
            loss_1, stats_1 = self._direction("view_1", q_1, k_2, self.queue_2.features, step, draws)
            loss_2, stats_2 = self._direction("view_2", q_2, k_1, self.queue_1.features, step, draws)
        part_1, part_2 = loss_1.sum() * scale, loss_2.sum() * scale
        keys = gather_rows(
            torch.stack([k_1, k_2], 1), step.first_row, step.images_per_step_global, step.group
        )
        self._uncommitted = (step.step, keys)
        stats = {name: (stats_1[name] + stats_2[name]) / 2 for name in stats_1}
        stats["momentum"] = torch.tensor(momentum)
        parts = {"view_1": part_1.detach(), "view_2": part_2.detach()}
        return MethodOutput(part_1 + part_2, parts, stats)

    def commit(self, step: StepContext) -> None:
        """Enqueue the global batch's keys of the forward pass of this step."""
        if self._uncommitted is None or self._uncommitted[0] != step.step:
            raise RuntimeError(f"commit of step {step.step} without its forward pass")
        keys = self._uncommitted[1]
        self._uncommitted = None
        self.queue_1.enqueue(keys[:, 0])
        self.queue_2.enqueue(keys[:, 1])

    def synthesized_logits(
        self, purpose: str, q: Tensor, queue: Tensor, similarity: Tensor, step: StepContext, draws: RowDraws
    ) -> dict[str, Tensor]:
        """Further negatives by name, each (n, M), before temperature; MoBY has none."""
        return {}

    def _direction(
        self, purpose: str, q: Tensor, k: Tensor, queue: Tensor, step: StepContext, draws: RowDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of each query (n,) against keys of the other view, and its telemetry."""
        positive = (q * k).sum(dim=1)
        similarity = q @ queue.T
        kinds = self.synthesized_logits(purpose, q, queue, similarity, step, draws)
        loss = info_nce(positive, [similarity, *kinds.values()], self.temperature)
        stats = {"positive/logit": positive.detach().mean()}
        blocks = {"queue": similarity, **{f"negatives/{name}": logits for name, logits in kinds.items()}}
        for name, block in blocks.items():
            stats[f"{name}/logit"] = block.detach().mean()
            stats[f"{name}/mass"] = softmax_mass(loss, positive, block, self.temperature)
        return loss, stats

    def _update_target(self, step: StepContext) -> float:
        online = chain(self.encoder.parameters(), self.projector.parameters())
        target = chain(self.target_encoder.parameters(), self.target_projector.parameters())
        return self.momentum.advance(target, online, step.step, step.total_steps)

    def _query(self, view: Tensor, name: str, draws: RowDraws) -> Tensor:
        draw_drop_path(self.encoder, f"drop_path/online/{name}", draws)
        return unit(self.predictor(self.projector(self.encoder(view))))

    @torch.no_grad()
    def _key(self, view: Tensor, name: str, draws: RowDraws) -> Tensor:
        draw_drop_path(self.target_encoder, f"drop_path/target/{name}", draws)
        return unit(self.target_projector(self.target_encoder(view)))


def build_networks(spec: MobySpec, image_size: int, seed: int) -> Networks:
    """Networks and queues on the CPU, as a function of (spec, image_size, seed) alone."""

    def backbone(drop_path: float) -> nn.Module:
        with seeded_initialisation(seed, "encoder"):
            return build_backbone(
                spec.backbone, image_size, spec.patch_size, drop_path, spec.backbone_options
            )

    def head(name: str, features_in: int) -> nn.Sequential:
        with seeded_initialisation(seed, name):
            return mlp_head(features_in, spec.hidden_features, spec.output_features)

    def queue(name: str) -> FeatureQueue:
        generator = Generator().manual_seed(seed_of(seed, name))
        return FeatureQueue(spec.queue_size_features, spec.output_features, generator)

    encoder, target_encoder = backbone(spec.drop_path_online), backbone(spec.drop_path_target)
    target_encoder.load_state_dict(encoder.state_dict())
    width = num_features(encoder)
    return Networks(
        encoder=encoder,
        projector=head("projector", width),
        predictor=head("predictor", spec.output_features),
        target_encoder=target_encoder,
        target_projector=head("projector", width),
        queue_1=queue("queue_1"),
        queue_2=queue("queue_2"),
    )


def build(spec: MobySpec, image_size: int, seed: int) -> MoBY:
    """MoBY as the spec says.

    Raises:
        SpecError: the spec asks for synthesized negatives, which this framework has not.
    """
    if spec.negatives is not None:
        fault = Fault(
            "method.negatives",
            "given, but framework moby has no synthesized negatives",
            next_step="set method.framework to synby, or method.negatives to null",
        )
        raise SpecError([fault])
    return MoBY(build_networks(spec, image_size, seed), spec.temperature, spec.momentum)
