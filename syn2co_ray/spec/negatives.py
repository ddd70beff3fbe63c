"""The part `negatives` of section `method`: which synthesized negatives, how many, how hard, when."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from .base import Section


class CountSpec(Section):
    """A kind of synthesized negative; `interpolated: 128` is short for `interpolated: {count: 128}`."""

    count: int = Field(ge=0)
    """Synthesized negatives of this kind per query; 0 leaves the kind out."""

    @model_validator(mode="before")
    @classmethod
    def _count_alone(cls, value: Any) -> Any:
        return {"count": value} if isinstance(value, int) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "integer", "minimum": 0}, handler(core)]}


class InterpolatedSpec(CountSpec):
    """s = a q + (1 - a) n, a ~ U(0, alpha_max)."""

    alpha_max: float = Field(default=0.5, gt=0, le=1)
    """Largest weight of the query."""


class ExtrapolatedSpec(CountSpec):
    """s = q + b (n - q), b ~ U(1, beta_max)."""

    beta_max: float = Field(default=1.5, ge=1)
    """Furthest step past the negative."""


class MixupSpec(CountSpec):
    """s = g n_i + (1 - g) n_j, g ~ U(0, gamma_max)."""

    gamma_max: float = Field(default=1.0, gt=0, le=1)
    """Largest weight of the first negative."""


class NoiseSpec(CountSpec):
    """s = n + N(0, sigma^2 I)."""

    sigma: float = Field(default=0.1, ge=0)
    """Standard deviation per coordinate; left out: 0.01 in SynCo, 0.1 in SynBY."""
    draw: Literal["full", "low_dimensional"] = "full"
    """full: a normal number a coordinate, as published; low_dimensional: three numbers a negative, with the
    same distribution of logits, and a gradient that is the same in the mean with less noise. Faster."""


class PerturbedSpec(CountSpec):
    """s = n + delta q."""

    delta: float = Field(default=0.01, ge=0)
    """Step along the query."""


class AdversarialSpec(CountSpec):
    """s = n + eta sign(q)."""

    eta: float = Field(default=0.01, ge=0)
    """Step along the sign of the query."""


class NegativesSpec(Section):
    """Synthesized negatives: drawn from each query's hardest queue entries, inside the loss."""

    hardest: int = Field(ge=1)
    """The pool: this many of the queue's entries most similar to the query."""
    active_epochs: tuple[int, int] | None = Field(default=None, strict=False)
    """First and last epoch (counted from 0, both included) with synthesized negatives; always
    when left out."""
    interpolated: InterpolatedSpec = InterpolatedSpec(count=0)
    extrapolated: ExtrapolatedSpec = ExtrapolatedSpec(count=0)
    mixup: MixupSpec = MixupSpec(count=0)
    noise: NoiseSpec = NoiseSpec(count=0)
    perturbed: PerturbedSpec = PerturbedSpec(count=0)
    adversarial: AdversarialSpec = AdversarialSpec(count=0)

    def kinds(self) -> dict[str, CountSpec]:
        """Name -> spec of every kind whose count is not 0, in table order."""
        named = {name: getattr(self, name) for name in NEGATIVE_KINDS}
        return {name: kind for name, kind in named.items() if kind.count}


NEGATIVE_KINDS = ("interpolated", "extrapolated", "mixup", "noise", "perturbed", "adversarial")
