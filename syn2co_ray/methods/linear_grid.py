"""Linear classifiers on a frozen backbone, for a grid of learning rates in one pass over the images.

Each rate r has two classifiers, which start at 0 and take the same features f of the same view:

    choosing_r   learns from the images that are not held out; its accuracy on those that are chooses a rate
    final_r      learns from all images; the one of the chosen rate is reported

    loss_r = 1 / B sum CE(one-hot, smoothed, softmax(W_r f + b_r))

The sum goes over the rows the classifier learns from, and B is their expected number in a global batch, so
that both meet steps of the same size. Parameters of different classifiers share nothing: the gradient of the
sum of all losses is each one's own. The loss that is shown is their mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from syn2co_ray.spec.errors import Syn2coError
from syn2co_ray.spec.probe import HELD_OUT_ONE_IN, LinearGridMethodSpec

from .backbones import num_features
from .contract import Method, MethodOutput, StepContext
from .draws import RowDraws, seeded_initialisation
from .drop_path import RowDropPath, draw_drop_path
from .encoders import build_encoder

CHOOSING, FINAL = "choosing", "final"


class LinearGrid(Method):
    """See the module."""

    def __init__(
        self,
        encoder: nn.Module,
        number_of_classes: int,
        learning_rates: Sequence[float],
        label_smoothing: float,
        gradient_clip_norm: float | None,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.learning_rates = tuple(learning_rates)
        self.label_smoothing, self.gradient_clip_norm = label_smoothing, gradient_clip_norm
        width, rates = num_features(encoder), len(self.learning_rates)
        self.choosing = nn.ModuleList(_Classifier(width, number_of_classes) for _ in range(rates))
        self.final = nn.ModuleList(_Classifier(width, number_of_classes) for _ in range(rates))
        self.train()

    def train(self, mode: bool = True) -> LinearGrid:
        """Of the backbone, only drop path has a training mode: batch norms keep their statistics."""
        super().train(mode)
        self.encoder.eval()
        for module in self.encoder.modules():
            if isinstance(module, RowDropPath):
                module.train(mode)
        return self

    def learning_rate_factors(self) -> dict[str, float]:
        return {
            f"{role}.{number}.{name}": rate
            for role in (CHOOSING, FINAL)
            for number, rate in enumerate(self.learning_rates)
            for name in ("weight", "bias")
        }

    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of this rank's rows, whose labels are in [0, classes); see `Method.forward`.

        Raises:
            Syn2coError: no labels, or the step does not say what is held out.
        """
        if labels is None or step.held_out is None:
            got = "no labels, or no held-out rows"
            raise Syn2coError("linear_augmented", got, "both", "label the images")
        features = self._features(views[0], step, len(labels))
        scale = step.loss_scale(len(labels))
        learnt = (~step.held_out) * (scale / (1 - 1 / HELD_OUT_ONE_IN))
        losses, stats = [], {}
        for choosing, final, rate in zip(self.choosing, self.final, self.learning_rates, strict=True):
            losses.append((self._loss_of_each(choosing(features), labels) * learnt).sum())
            logits = final(features)
            losses.append(self._loss_of_each(logits, labels).sum() * scale)
            right = (logits.detach().argmax(dim=1) == labels).float().mean()
            stats[f"train/accuracy_rate_{rate:g}"] = right
        total = torch.stack(losses).sum()
        # Its value is the mean, its gradient that of the sum.
        loss = total - total.detach() * (1 - 1 / len(losses))
        return MethodOutput(loss, {"classifiers": loss.detach()}, stats)

    def _loss_of_each(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")

    def _features(self, view: Tensor, step: StepContext, rows: int) -> Tensor:
        draw_drop_path(
            self.encoder,
            "drop_path/online/view_1",
            RowDraws(step.seed, step.step, step.first_row, rows, view.device),
        )
        with torch.no_grad():
            features: Tensor = self.encoder(view)
        return features

    def before_update(self, step: StepContext) -> None:
        """Clip each classifier's gradient by itself: in a common norm one rate would slow the others."""
        if self.gradient_clip_norm is None:
            return
        for classifier in (*self.choosing, *self.final):
            nn.utils.clip_grad_norm_(classifier.parameters(), self.gradient_clip_norm)

    def commit(self, step: StepContext) -> None:
        """Nothing: there is no state beside the networks."""


class _Classifier(nn.Linear):
    """A linear layer that starts at 0; float32 under autocast too: it is small, and its steps large."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def build(spec: LinearGridMethodSpec, image_size: int, seed: int) -> LinearGrid:
    """A random backbone, for others' weights, and classifiers at 0, on the CPU."""
    with seeded_initialisation(seed, "encoder"):
        encoder = build_encoder(spec, image_size, spec.drop_path_online)
        return LinearGrid(
            encoder,
            spec.number_of_classes,
            spec.learning_rates,
            spec.label_smoothing,
            spec.gradient_clip_norm,
        )
