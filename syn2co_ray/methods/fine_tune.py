"""Fine-tuning: a trained backbone and a linear classifier that starts at 0 learn on together.

The loss is that of `supervised`. With a layer decay d, a layer that is k layers from the output learns at
d^k of the rate (BEiT, arXiv 2106.08254, appendix). Layers are as timm counts them: patch embedding,
positions and tokens are the first, each block is one (the last norm belongs to the last of them), and the
classifier is the output.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from timm.models import group_parameters
from torch import nn

from syn2co_ray.spec.errors import Fault, SpecError
from syn2co_ray.spec.probe import FineTuneMethodSpec

from .backbones import num_features
from .draws import seeded_initialisation
from .encoders import build_encoder
from .supervised import Supervised

CLASSIFIER = "the classifier"


class FineTune(Supervised):
    """See the module."""

    def __init__(
        self, encoder: nn.Module, classifier: nn.Linear, label_smoothing: float, layer_decay: float | None
    ) -> None:
        super().__init__(encoder, classifier, label_smoothing)
        self.factors = {} if layer_decay is None else layer_factors(encoder, layer_decay)

    def learning_rate_factors(self) -> dict[str, float]:
        return {f"encoder.{name}": factor for name, factor in self.factors.items()}


def layer_factors(encoder: nn.Module, layer_decay: float) -> dict[str, float]:
    """Names of a timm backbone's parameters -> layer_decay to the power of its distance from the output.

    Raises:
        SpecError: a backbone that does not say what its layers are.
    """
    matcher: Any = getattr(encoder, "group_matcher", None)
    if matcher is None:
        got = f"{layer_decay:g}, but {type(encoder).__name__} does not say what its layers are"
        allowed = "a backbone of timm with group_matcher, such as ViT, Swin, ResNet"
        raise SpecError([Fault("fine_tune.layer_decay", got, allowed, "leave it out")])
    # A name that no pattern knows is a layer of its own, the last one, as in a model with a classifier.
    named = [*((name, None) for name, _ in encoder.named_parameters()), (CLASSIFIER, None)]
    with_classifier: Any = SimpleNamespace(named_parameters=lambda: named)
    layers = group_parameters(with_classifier, matcher(coarse=False), reverse=True)
    output = layers.pop(CLASSIFIER)
    return {name: layer_decay ** (output - layer) for name, layer in layers.items()}


def build(spec: FineTuneMethodSpec, image_size: int, seed: int) -> FineTune:
    """A random backbone, for others' weights, and a classifier at 0, on the CPU."""
    with seeded_initialisation(seed, "encoder"):
        encoder = build_encoder(spec, image_size, spec.drop_path_online)
        classifier = nn.Linear(num_features(encoder), spec.number_of_classes)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    return FineTune(encoder, classifier, spec.label_smoothing, spec.layer_decay)
