from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.spec.generate import GenerateSpec

from .tiny_pipelines import save_class_conditional, save_latent, save_text_to_image, save_unconditional

MakeJob = Callable[..., GenerateSpec]


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny real pipelines, by family."""
    folder = tmp_path_factory.mktemp("pipelines")
    return {
        "unconditional": save_unconditional(folder / "unconditional"),
        "latent": save_latent(folder / "latent"),
        "class_conditional": save_class_conditional(folder / "class_conditional"),
        "text_to_image": save_text_to_image(folder / "text_to_image"),
    }


@pytest.fixture
def make_job(pipelines: dict[str, Path], tmp_path: Path) -> MakeJob:
    """A job on a family's pipeline; keyword arguments replace fields, those of `pipeline` too."""

    def make(family: str = "unconditional", **changes: Any) -> GenerateSpec:
        settings = {"source": str(pipelines[family]), "steps": 2} | changes.pop("pipeline", {})
        fields: dict[str, Any] = {
            "kind": "generate",
            "name": "tiny",
            "seed": 5,
            "into": str(tmp_path / "generated"),
            "images": 8,
            "pipeline": settings,
        }
        if family == "class_conditional":
            fields["classes"] = {"numbers": [0, 3], "names": ["cat", "dog"]}
        if family == "text_to_image" and "variations_of" not in changes:
            fields["prompts"] = {"classes": ["cat", "dog"], "templates": ["a {name}", "the {name}"]}
        return GenerateSpec.model_validate(fields | changes)

    return make
