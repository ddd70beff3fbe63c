"""DINO: the student predicts the teacher's soft assignment of the other views to prototypes; no negatives.

Caron et al., arXiv 2104.14294, algorithm 1. With global views 1 and 2, local views 3 to V, logits over the
prototypes s_v (student) and t_g (teacher), centre c, temperatures a (student) and b (teacher):

    loss = 1 / (2 V - 2) sum_g sum_{v != g} mean CE(softmax((t_g - c) / b), softmax(s_v / a))
    c <- m c + (1 - m) mean of t_1 and t_2 over the global batch, after the step

Centring keeps one prototype from taking all images, the low temperature of the teacher keeps the assignment
from becoming even: watch `teacher/entropy`, which is 0 in the one collapse and log(prototypes) in the other.
The teacher's temperature rises linearly over its warm-up epochs; the last layer rests in the first ones.

The teacher moves at the start of the next step, as in the other frameworks, with that step's momentum; the
published code moves it at the end of this one, with this one's: its schedule is one step behind.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from syn2co_ray.spec.method import DinoSpec

from .branches import Branches, TwoBranches, build_branches
from .collective import sum_over_ranks
from .contract import MethodOutput, StepContext
from .draws import RowDraws
from .drop_path import draw_drop_path
from .momentum import MomentumUpdate
from .unit_vectors import unit

GLOBAL_VIEWS = 2


class Assigned(NamedTuple):
    """What a head makes of n images."""

    bottleneck: Tensor
    """Unit rows (n, B)."""
    logits: Tensor
    """Cosines with the prototypes, (n, prototypes), at least float32."""


class DinoHead(nn.Module):
    """Features (n, C) -> their place in the bottleneck and their logits over the prototypes."""

    def __init__(self, features: int, spec: DinoSpec) -> None:
        super().__init__()
        widths = [features, spec.hidden_features, spec.hidden_features, spec.bottleneck_features]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.prototypes = nn.Linear(spec.bottleneck_features, spec.prototypes, bias=False)
        for layer in self.mlp:  # the prototypes keep torch's first weights, as published
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def directions(self) -> Tensor:
        """The prototypes (prototypes, B) at length 1: the published weight norm with its length held at 1."""
        return unit(self.prototypes.weight)

    def forward(self, features: Tensor, directions: Tensor) -> Assigned:
        """Features (n, C) and `directions()` (prototypes, B), made once for all views of a step."""
        bottleneck = unit(self.mlp(features))
        # Divided by a temperature of 0.04, the rounding of bfloat16 would be up to a twentieth.
        with torch.autocast(features.device.type, enabled=False):
            return Assigned(bottleneck, F.linear(bottleneck, directions))


class DINO(TwoBranches):
    """See the module. `state_dict` holds both branches, the centre and the last momentum step."""

    centre: Tensor
    projector: DinoHead
    target_projector: DinoHead

    def __init__(self, branches: Branches, momentum: MomentumUpdate, spec: DinoSpec) -> None:
        super().__init__(branches, momentum)
        self.spec = spec
        self.register_buffer("centre", torch.zeros(spec.prototypes))
        self._uncommitted: tuple[int, Tensor] | None = None

    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of this rank's rows; the first two views are the global ones. See `Method.forward`."""
        draws, scale, momentum = self.begin(views, step, more_views=True)
        with torch.no_grad():
            target = ("target", self.target_encoder, self.target_projector)
            teachers = self._assigned(*target, views[:GLOBAL_VIEWS], draws)
        students = self._assigned("online", self.encoder, self.projector, views, draws)
        with torch.autocast(views[0].device.type, enabled=False):
            temperature = teacher_temperature(self.spec, step.epoch)
            targets = [torch.softmax((t.logits - self.centre) / temperature, dim=1) for t in teachers]
            pairs = GLOBAL_VIEWS * (len(views) - 1)
            losses = [self._loss(s.logits, v, targets) * scale / pairs for v, s in enumerate(students)]
            entropy = torch.special.entr(torch.cat(targets)).sum(dim=1).mean()
            sums = sum_over_ranks(torch.cat([t.logits for t in teachers]).sum(dim=0), step.group)
        self._uncommitted = (step.step, sums / (GLOBAL_VIEWS * step.images_per_step_global))
        parts = {f"view_{v}": loss.detach() for v, loss in enumerate(losses, 1)}
        stats = {"teacher/entropy": entropy, "momentum": torch.tensor(momentum)}
        pair = (students[0].bottleneck.detach(), teachers[1].bottleneck)
        return MethodOutput(torch.stack(losses).sum(), parts, stats, pair)

    def before_update(self, step: StepContext) -> None:
        """Let the last layer rest in the first epochs."""
        if step.epoch < self.spec.last_layer_frozen_epochs:
            self.projector.prototypes.weight.grad = None

    def commit(self, step: StepContext) -> None:
        """Move the centre towards the mean of this step's teacher logits."""
        if self._uncommitted is None or self._uncommitted[0] != step.step:
            raise RuntimeError(f"commit of step {step.step} without its forward pass")
        self.centre.lerp_(self._uncommitted[1], 1.0 - self.spec.centre_momentum)
        self._uncommitted = None

    def _assigned(
        self, side: str, encoder: nn.Module, head: DinoHead, views: list[Tensor], draws: RowDraws
    ) -> list[Assigned]:
        """What one side ("online" or "target") makes of views, each (n, 3, H, W), one after the other."""
        directions, assigned = head.directions(), []
        for number, view in enumerate(views, 1):
            draw_drop_path(encoder, f"drop_path/{side}/view_{number}", draws)
            assigned.append(head(encoder(view), directions))
        return assigned

    def _loss(self, logits: Tensor, number: int, targets: list[Tensor]) -> Tensor:
        """Sum over rows and over the teacher's other views of CE(target, softmax(logits / a)).

        With targets that sum to 1, CE = logsumexp(logits / a) - target.logits / a: no softmax is kept.
        """
        others = [target for view, target in enumerate(targets) if view != number]
        scaled = logits / self.spec.student_temperature
        agreement = (torch.stack(others).sum(dim=0) * scaled).sum(dim=1)
        return (len(others) * torch.logsumexp(scaled, dim=1) - agreement).sum()


def teacher_temperature(spec: DinoSpec, epoch: int) -> float:
    """Linear from start to end over the warm-up epochs, then constant."""
    warmup = spec.teacher_temperature_warmup_epochs
    if epoch >= warmup:
        return spec.teacher_temperature
    progress = epoch / max(warmup - 1, 1)
    return (
        spec.teacher_temperature_start
        + (spec.teacher_temperature - spec.teacher_temperature_start) * progress
    )


def build(spec: DinoSpec, image_size: int, seed: int) -> DINO:
    """DINO as the spec says, on the CPU, as a function of the arguments alone."""
    branches = build_branches(
        spec,
        image_size,
        seed,
        drop_path_target=spec.drop_path_target,
        projector=lambda width: DinoHead(width, spec),
    )
    return DINO(branches, MomentumUpdate(spec.momentum), spec)
