"""Supervised: cross-entropy on the labels, the yardstick of what the same encoder learns from them.

    loss = 1 / V sum_v mean CE(one-hot, smoothed, softmax(classifier(encoder(view_v))))

The recipe `supervised` makes one view. The classifier is one linear layer; evaluation looks at the encoder,
as for all other frameworks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from syn2co_ray.spec.errors import Syn2coError
from syn2co_ray.spec.method import SupervisedSpec

from .backbones import num_features
from .batch_norm import set_process_group
from .contract import Method, MethodOutput, StepContext
from .draws import RowDraws, seeded_initialisation
from .drop_path import draw_drop_path
from .encoders import build_encoder


class Supervised(Method):
    """See the module."""

    def __init__(self, encoder: nn.Module, classifier: nn.Linear, label_smoothing: float) -> None:
        super().__init__()
        self.encoder, self.classifier, self.label_smoothing = encoder, classifier, label_smoothing

    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of this rank's rows, whose labels are in [0, classes); see `Method.forward`.

        Raises:
            Syn2coError: no labels.
        """
        if labels is None:
            raise Syn2coError(
                "method.framework", "supervised without labels", "labelled images", "label them"
            )
        scale = step.loss_scale(len(labels)) / len(views)
        set_process_group(self, step.group)
        draws = RowDraws(step.seed, step.step, step.first_row, len(labels), views[0].device)
        losses, right = [], []
        for number, view in enumerate(views, 1):
            draw_drop_path(self.encoder, f"drop_path/online/view_{number}", draws)
            logits = self.classifier(self.encoder(view))
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            smoothing = self.label_smoothing
            losses.append(F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum") * scale)
            right.append((logits.detach().argmax(dim=1) == labels).float().mean())
        parts = {f"view_{number}": loss.detach() for number, loss in enumerate(losses, 1)}
        return MethodOutput(torch.stack(losses).sum(), parts, {"train/accuracy": torch.stack(right).mean()})

    def commit(self, step: StepContext) -> None:
        """Nothing: there is no state beside the networks."""


def build(spec: SupervisedSpec, image_size: int, seed: int) -> Supervised:
    """An encoder and a linear classifier, on the CPU, as a function of the arguments alone."""
    with seeded_initialisation(seed, "encoder"):
        encoder = build_encoder(spec, image_size, spec.drop_path_online)
    with seeded_initialisation(seed, "classifier"):
        classifier = nn.Linear(num_features(encoder), spec.number_of_classes)
    return Supervised(encoder, classifier, spec.label_smoothing)
