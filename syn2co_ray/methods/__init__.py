"""The science in plain torch: frameworks, heads, momentum, queue, losses, negatives, backbones. Never Ray.

A further framework is a file with a `Method` and a `build` in this folder, a line in `FRAMEWORKS` (and its
name in `spec/method.py`), and a test: an entry in test_frameworks.py asks of it what all have to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from syn2co_ray.spec.generator_method import GeneratorMethodSpec
from syn2co_ray.spec.method import MethodSpec
from syn2co_ray.spec.probe import FineTuneMethodSpec, LinearGridMethodSpec

from . import byol, dino, fine_tune, linear_grid, moby, moco, moco_v3, supervised
from .backbones import build_backbone, num_features
from .contract import Method, MethodOutput, StepContext

__all__ = [
    "FRAMEWORKS",
    "Method",
    "MethodOutput",
    "StepContext",
    "build_backbone",
    "build_method",
    "num_features",
]


def _build_ddpm(spec: Any, image_size: int, seed: int) -> Method:
    from . import ddpm  # diffusers takes seconds to import, and other frameworks do without

    return ddpm.build(spec, image_size, seed)


def _build_lora(spec: Any, image_size: int, seed: int) -> Method:
    from . import lora

    return lora.build(spec, image_size, seed)


FRAMEWORKS: dict[str, Callable[[Any, int, int], Method]] = {
    "moco_v2": moco.build,
    "synco": moco.build,
    "moby": moby.build,
    "synby": moby.build,
    "moco_v3": moco_v3.build,
    "byol": byol.build,
    "dino": dino.build,
    "supervised": supervised.build,
    "linear_grid": linear_grid.build,
    "fine_tune": fine_tune.build,
    "ddpm": _build_ddpm,
    "lora": _build_lora,
}
"""Name -> builder, called with that framework's own section of the spec, image size and seed."""


def build_method(
    spec: MethodSpec | GeneratorMethodSpec | LinearGridMethodSpec | FineTuneMethodSpec,
    image_size: int,
    seed: int,
) -> Method:
    """The framework that the spec names, on the CPU, in training mode.

    Weights and queues are a function of the arguments; torch's global random state is left as it was.

    Args:
        spec: section `method` of a job.
        image_size: height and width of a view in pixels (`augment.image_size`).
        seed: seed of the run.

    Raises:
        SpecError: an unknown backbone, an image size it cannot take, sections that contradict each other.
    """
    return FRAMEWORKS[spec.framework](spec, image_size, seed)
