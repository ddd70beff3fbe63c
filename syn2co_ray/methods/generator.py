"""What a method that trains a diffusion model has beyond `Method`."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import numpy as np

from .contract import Method, StepContext


class GeneratorMethod(Method):
    """A diffusion model in training."""

    def commit(self, step: StepContext) -> None:
        """Nothing: no keys are kept."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what the training was for, as diffusers loads it."""

    @abstractmethod
    def samples(self, count: int, seed: int) -> np.ndarray:
        """Images to look at, (count, H, W, 3) uint8; a function of weights and seed."""
