"""Synthesized negatives: feature vectors made inside the loss from each query's hardest queue entries.

Published as "synthetic hard negatives" (SynCo, arXiv 2410.02401, section 3; SynBY, 2509.02024). Each kind
draws its members of the pool independently, and each is named, never numbered.

A further kind is a file with `draw` and `logits` in this folder, a line in `KINDS`, its section in
`spec/negatives.py`, and a mirrored test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from syn2co_ray.spec.negatives import NegativesSpec

from ..draws import Draws, RowDraws
from . import adversarial, extrapolated, interpolated, mixup, noise, perturbed
from .pool import HardestPool

__all__ = ["KINDS", "HardestPool", "Kind", "draw_negatives", "synthesized_logits"]


@dataclass(frozen=True)
class Kind:
    """The two functions of a kind; `spec` is the kind's own section (InterpolatedSpec, ...)."""

    draw: Callable[[Generator, int, int, int, Any], Draws]
    """(generator, rows, hardest, features, spec) -> draws of that many rows."""
    logits: Callable[[HardestPool, Draws, Any], Tensor]
    """(pool, draws, spec) -> q.s before temperature, (n, count)."""


KINDS: dict[str, Kind] = {
    "interpolated": Kind(interpolated.draw, interpolated.logits),
    "extrapolated": Kind(extrapolated.draw, extrapolated.logits),
    "mixup": Kind(mixup.draw, mixup.logits),
    "noise": Kind(noise.draw, noise.logits),
    "perturbed": Kind(perturbed.draw, perturbed.logits),
    "adversarial": Kind(adversarial.draw, adversarial.logits),
}


def draw_negatives(draws: RowDraws, purpose: str, features: int, spec: NegativesSpec) -> dict[str, Draws]:
    """Draws of every kind whose count is not 0, each from a stream of its own.

    Args:
        draws: source, for this rank's rows.
        purpose: what the negatives are for, such as "view_1"; unique within the step.
        features: width C of the projections.
        spec: counts and constants.
    """
    drawn = {}
    for name, kind in spec.kinds().items():

        def draw(generator: Generator, rows: int, name: str = name, kind: Any = kind) -> Draws:
            return KINDS[name].draw(generator, rows, spec.hardest, features, kind)

        drawn[name] = draws.make(f"negatives/{name}/{purpose}", draw)
    return drawn


def synthesized_logits(
    pool: HardestPool, drawn: Mapping[str, Draws], spec: NegativesSpec
) -> dict[str, Tensor]:
    """Logits q.s before temperature of each kind: name -> (n, count), gradient s."""
    return {name: KINDS[name].logits(pool, drawn[name], kind) for name, kind in spec.kinds().items()}
