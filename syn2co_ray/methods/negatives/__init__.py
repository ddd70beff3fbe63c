"""Synthesized negatives: feature vectors made inside the loss from each query's hardest queue entries.

Published as "synthetic hard negatives" (SynCo, arXiv 2410.02401, section 3; SynBY, 2509.02024). Each kind
draws its members of the pool independently, and each is named, never numbered.

A further kind is a file with `draw` and `synthesize` in this folder, a line in `KINDS`, its section in
`spec/negatives.py`, and a mirrored test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from syn2co_ray.spec.negatives import NegativesSpec

from ..draws import Draws, RowDraws
from . import adversarial, extrapolated, interpolated, mixup, noise, perturbed
from .fused import Negatives, Observed, log_sum_exp
from .pool import HardestPool, Synthesized

__all__ = [
    "KINDS",
    "HardestPool",
    "Kind",
    "Negatives",
    "Observed",
    "Synthesized",
    "draw_negatives",
    "log_sum_exp",
    "synthesize",
]


@dataclass(frozen=True)
class Kind:
    """The two functions of a kind; `spec` is the kind's own section (InterpolatedSpec, ...)."""

    draw: Callable[[RowDraws, str, int, int, Any], Draws]
    """(source, name of the stream, hardest, features, spec) -> draws of the source's rows."""
    synthesize: Callable[[HardestPool, Draws, Any], Synthesized]
    """(pool, draws, spec) -> `count` negatives of each query."""


KINDS: dict[str, Kind] = {
    "interpolated": Kind(interpolated.draw, interpolated.synthesize),
    "extrapolated": Kind(extrapolated.draw, extrapolated.synthesize),
    "mixup": Kind(mixup.draw, mixup.synthesize),
    "noise": Kind(noise.draw, noise.synthesize),
    "perturbed": Kind(perturbed.draw, perturbed.synthesize),
    "adversarial": Kind(adversarial.draw, adversarial.synthesize),
}


def draw_negatives(draws: RowDraws, purpose: str, features: int, spec: NegativesSpec) -> dict[str, Draws]:
    """Draws of every kind whose count is not 0, each from a stream of its own.

    Args:
        draws: source, for this rank's rows.
        purpose: what the negatives are for, such as "view_1"; unique within the step.
        features: width C of the projections.
        spec: counts and constants.
    """
    return {
        name: KINDS[name].draw(draws, f"negatives/{name}/{purpose}", spec.hardest, features, kind)
        for name, kind in spec.kinds().items()
    }


def synthesize(pool: HardestPool, drawn: Mapping[str, Draws], spec: NegativesSpec) -> dict[str, Synthesized]:
    """Negatives of every kind whose count is not 0, by name."""
    return {name: KINDS[name].synthesize(pool, drawn[name], kind) for name, kind in spec.kinds().items()}
