"""Section `evaluate`: what is measured while and after training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .base import EXECUTION_ONLY, Section


class KnnSpec(Section):
    """Weighted k-nearest neighbours on frozen features (DINO protocol)."""

    every_epochs: int = Field(default=10, ge=1)
    """Measure at the end of every n-th epoch (and always after the last)."""
    neighbours: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)] = (
        10,
        20,
        100,
        200,
    )
    """Values of k; the first one is the headline figure."""
    temperature: float = Field(default=0.07, gt=0)
    """A neighbour votes with weight exp(similarity / temperature)."""


class LinearSpec(Section):
    """Softmax regression on frozen, standardised features; one pass for a whole grid of rates."""

    epochs: int = Field(default=100, ge=1)
    """Passes over the features of the bank."""
    images_per_step: int = Field(default=256, ge=1)
    """Features per SGD step."""
    learning_rates: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)
    ] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    """The grid; the rate is chosen on a tenth of the bank that the probe does not learn from."""


class EvaluateSpec(Section):
    """k-NN during training, k-NN and linear probe after it, with two baselines."""

    knn: KnnSpec = KnnSpec()
    linear: LinearSpec | None = LinearSpec()
    """null leaves the linear probe out."""
    baselines: bool = True
    """Measure the same encoder at random initialisation and raw pixels as well."""
    images_per_batch: int = Field(default=256, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Images per forward pass."""
