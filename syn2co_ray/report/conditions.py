"""Under which settings each protocol was measured: only figures of equal settings may share a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from syn2co_ray.spec.base import Section
from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.evaluate import EvaluateSpec, LinearSpec
from syn2co_ray.spec.evaluation import EvaluateJobSpec
from syn2co_ray.spec.identity import spec_hash
from syn2co_ray.spec.job import PretrainSpec
from syn2co_ray.spec.load import build_spec

from .protocols import SECTIONS

_COLUMNS = {
    "few_shot": ("shots",),
    "fine_tune": ("shares",),
    "detection": ("train", "eval"),
}
"""Settings that do not change a figure: they say which columns there are, or which images (told apart by
their fingerprints)."""


def conditions(spec: Mapping[str, Any]) -> dict[str, str]:
    """Section -> what tells its settings from others, for each section that a run's spec has.

    Args:
        spec: the resolved spec of a training or an evaluation. Of one that this version refuses, only
            sections of equal text are equal.
    """
    try:
        job = build_spec(dict(spec))
    except SpecError:
        values = spec.get("evaluate", {}) if spec.get("kind") != "evaluate" else spec
        given = values if isinstance(values, Mapping) else {}
        return {name: yaml.safe_dump(given[name]) for name in SECTIONS if given.get(name) is not None}
    if isinstance(job, PretrainSpec):
        return _of_sections(job.evaluate)
    return _of_sections(job) if isinstance(job, EvaluateJobSpec) else {}


def _of_sections(holder: EvaluateSpec | EvaluateJobSpec) -> dict[str, str]:
    found = {}
    for name in SECTIONS:
        section = getattr(holder, name, None)
        if name == "knn" and section is not None:
            # A training and an evaluation have different sections; the votes' temperature is all that counts.
            found[name] = f"temperature {section.temperature:g}"
        elif isinstance(section, Section):
            found[name] = spec_hash(_without(section, _COLUMNS.get(name, ())))
        elif section:
            found[name] = str(section)
    probe = spec_hash(holder.linear or LinearSpec())
    if "label_shares" in found:
        found["label_shares"] = probe
    if "robustness" in found:
        k = f"k={holder.knn.neighbours[0]}" if holder.knn is not None else ""
        found["robustness"] += f" {k} {probe}"
    return found


def _without(section: Section, fields: tuple[str, ...]) -> BaseModel:
    return section.model_copy(update=dict.fromkeys(fields))
