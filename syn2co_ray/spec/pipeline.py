"""Several jobs in one file: `kind: pipeline`, such as generate -> pretrain."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializeAsAny

from .base import Section

SHARED = ("seed", "storage", "object_store")
"""Keys that, given for a pipeline, hold for all its steps that have a place for them."""


class PipelineJobSpec(Section):
    """Jobs that run one after the other; each resumes, or is skipped, by itself."""

    kind: Literal["pipeline"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Lower-case name of the whole."""
    steps: tuple[SerializeAsAny[Section], ...] = Field(min_length=1)
    """The jobs in their order, each as in a file of its own; `base: other.yaml` takes over the values of a
    file."""


def step_values(pipeline: dict[str, Any], step: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """A step's values under those that hold for all steps; `known`: keys that its kind has."""
    shared = {name: pipeline[name] for name in SHARED if name in pipeline and name in known}
    return {**step, **shared}
