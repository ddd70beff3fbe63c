"""The two branches of a momentum framework: online (trained) and target (a moving average of it).

Online: encoder, projector, predictor. Target: encoder and projector, a copy at the start, no gradient.
Views pass one at a time, so a batch norm sees one view; drop path draws belong to rows of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from syn2co_ray.spec.errors import Syn2coError
from syn2co_ray.spec.method import BackboneSpec

from .backbones import num_features
from .batch_norm import set_process_group
from .contract import Method, StepContext
from .draws import RowDraws, seeded_initialisation
from .drop_path import draw_drop_path
from .encoders import build_encoder
from .momentum import MomentumUpdate
from .unit_vectors import unit


@dataclass(frozen=True)
class Branches:
    """Networks of both branches; a framework without a predictor has the identity there."""

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module
    target_encoder: nn.Module
    target_projector: nn.Module


class TwoBranches(Method):
    """What frameworks with a momentum target share; `state_dict` holds both branches and the last update."""

    def __init__(self, branches: Branches, momentum: MomentumUpdate) -> None:
        super().__init__()
        self.encoder = branches.encoder
        self.projector = branches.projector
        self.predictor = branches.predictor
        self.target_encoder = branches.target_encoder.requires_grad_(False)
        self.target_projector = branches.target_projector.requires_grad_(False)
        self.momentum = momentum

    def begin(
        self, views: list[Tensor], step: StepContext, *, more_views: bool = False
    ) -> tuple[RowDraws, float, float]:
        """Start a forward pass: source of draws, factor on summed losses, momentum used.

        Raises:
            Syn2coError: not two views (or less than two, with `more_views`).
        """
        if len(views) < 2 or (len(views) > 2 and not more_views):
            raise Syn2coError("augment.recipe", f"{len(views)} views", "2 views", "choose a two-view recipe")
        scale = step.loss_scale(len(views[0]))
        set_process_group(self, step.group)
        draws = RowDraws(step.seed, step.step, step.first_row, len(views[0]), views[0].device)
        online = chain(self.encoder.parameters(), self.projector.parameters())
        target = chain(self.target_encoder.parameters(), self.target_projector.parameters())
        return draws, scale, self.momentum.advance(target, online, step.step, step.total_steps)

    def online(self, view: Tensor, name: str, draws: RowDraws) -> Tensor:
        """q: unit rows (n, C) of the online branch, with gradient."""
        draw_drop_path(self.encoder, f"drop_path/online/{name}", draws)
        return unit(self.predictor(self.projector(self.encoder(view))))

    @torch.no_grad()
    def target(self, view: Tensor, name: str, draws: RowDraws) -> Tensor:
        """k: unit rows (n, C) of the target branch."""
        draw_drop_path(self.target_encoder, f"drop_path/target/{name}", draws)
        return unit(self.target_projector(self.target_encoder(view)))


def build_branches(
    spec: BackboneSpec,
    image_size: int,
    seed: int,
    *,
    drop_path_target: float,
    projector: Callable[[int], nn.Module],
    predictor: Callable[[], nn.Module] = nn.Identity,
    start: Callable[[nn.Module], None] | None = None,
) -> Branches:
    """Both branches on the CPU, as a function of the arguments alone.

    Args:
        spec: section `method`.
        image_size: height and width of a view in pixels.
        seed: seed of the run.
        drop_path_target: stochastic depth of the target encoder.
        projector: makes a projector for an encoder of that width.
        predictor: makes the predictor.
        start: draws the weights of a new encoder again, in place.
    """

    def encoder(drop_path: float) -> nn.Module:
        with seeded_initialisation(seed, "encoder"):
            made = build_encoder(spec, image_size, drop_path)
            if start is not None:
                start(made)
            return made

    online, target = encoder(spec.drop_path_online), encoder(drop_path_target)
    target.load_state_dict(online.state_dict())
    heads = []
    for _ in ("online", "target"):
        with seeded_initialisation(seed, "projector"):
            heads.append(projector(num_features(online)))
    with seeded_initialisation(seed, "predictor"):
        return Branches(online, heads[0], predictor(), target, heads[1])
