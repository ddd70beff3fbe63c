"""A training run that measures a backbone; an evaluation writes it, people do not.

It is a training like any other (elastic workers, deterministic plan, checkpoints, run folder) with a method
of its own and with weights to begin with. Its folder is `<evaluation>/probes/<name>-<hash>/`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .job import TrainingSpec
from .method import ClassifierSpec

HELD_OUT_ONE_IN = 10
"""One image in so many of a bank chooses between classifiers; a digest of its key says which."""


class LinearGridMethodSpec(ClassifierSpec):
    """Linear classifiers on a frozen backbone, two for each rate (see `methods/linear_grid.py`)."""

    framework: Literal["linear_grid"]
    learning_rates: Annotated[tuple[float, ...], Field(strict=False)]
    """Factors on the schedule's rate."""
    gradient_clip_norm: float | None
    """Largest L2 norm of each classifier's gradient."""


class FineTuneMethodSpec(ClassifierSpec):
    """A backbone that learns on with a linear classifier (see `methods/fine_tune.py`)."""

    framework: Literal["fine_tune"]
    layer_decay: float | None
    """Factor on the rate for each layer further from the output."""


class ProbeSpec(TrainingSpec):
    """One training probe."""

    kind: Literal["probe"]
    method: Annotated[LinearGridMethodSpec | FineTuneMethodSpec, Field(discriminator="framework")]
    weights_digest: str
    """SHA-256 of the backbone it begins with; its tensors are in `storage`, in `weights_file`."""

    @property
    def weights_file(self) -> str:
        return f"backbone-{self.weights_digest[:16]}.safetensors"
