"""Golden vectors as test parameters: `@pytest.mark.golden("strategies_*.npz")` runs once a matching file.

Where they are and what happens without them: see `golden_vectors`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from syn2co_ray.methods import StepContext
from syn2co_ray.spec.method import MobySpec

from ..golden_vectors import golden_folder, skipped


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(pattern): run once for each golden-vector file that matches")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    folder, pattern = golden_folder(), marker.args[0]
    files = [pytest.param(file, id=file.stem) for file in sorted(folder.glob(pattern))]
    metafunc.parametrize("golden", files or [skipped(pattern)], indirect=True)


class Golden:
    """Arrays of one golden file as tensors."""

    def __init__(self, file: Path) -> None:
        self._arrays = np.load(file, allow_pickle=False)

    def keys(self) -> list[str]:
        return list(self._arrays.files)

    def number(self, key: str) -> float:
        return self._arrays[key].item()

    def numbers(self, key: str) -> list[float]:
        return self._arrays[key].tolist()

    def tensor(self, key: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.from_numpy(self._arrays[key]).to(dtype)

    def index(self, key: str) -> torch.Tensor:
        return self.tensor(key, torch.int64)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.fixture
def tiny_spec() -> Callable[..., MobySpec]:
    """A SynBY on a two-block ViT for 32-pixel images; keyword arguments replace fields."""

    def make(**changes: Any) -> MobySpec:
        fields: dict[str, Any] = {
            "framework": "synby",
            "backbone": "vit_tiny_patch16_224",
            "patch_size": 8,
            "backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
            "drop_path_online": 0.3,
            "hidden_features": 24,
            "output_features": 12,
            "queue_size_features": 40,
            "negatives": {
                "hardest": 8,
                "interpolated": 3,
                "extrapolated": 4,
                "mixup": 5,
                "noise": 2,
                "perturbed": 3,
                "adversarial": 4,
            },
        }
        return MobySpec.model_validate(fields | changes)

    return make


@pytest.fixture
def step_at() -> Callable[..., StepContext]:
    """The context of a step of a 100-step run on one rank with 6 images a step."""

    def make(step: int = 0, **changes: Any) -> StepContext:
        fields: dict[str, Any] = {
            "seed": 3,
            "step": step,
            "epoch": 0,
            "total_steps": 100,
            "images_per_step_global": 6,
        }
        return StepContext(**(fields | changes))

    return make


@pytest.fixture
def views() -> list[torch.Tensor]:
    """Two views of 6 images of 32 pixels."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(6, 3, 32, 32, generator=generator) for _ in range(2)]
