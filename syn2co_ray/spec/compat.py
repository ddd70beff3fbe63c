"""What the published code runs where its configuration, or its paper, says something else.

`method.compat` asks for a training run as that code would do it. What a spec can say, a spec with `compat`
has to say: values left out take the published code's, and another value is a fault (see `rules`), so the
resolved spec always shows what runs. `methods.compat` lists every deviation and does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .errors import Fault, SpecError
from .negatives import NegativesSpec

SYNCO_V1 = "synco_v1"
SYNCO_V2 = "synco_v2"

COUNTS_OF_SYNCO_V2 = {
    "interpolated": 128,
    "extrapolated": 128,
    "mixup": 128,
    "noise": 64,
    "perturbed": 64,
    "adversarial": 64,
}
"""Counts that SynCo-v2's code runs: its builder ignores those of the configuration."""

_CONSTANTS: dict[str, dict[str, tuple[str, float]]] = {
    SYNCO_V1: {
        "interpolated": ("alpha_max", 0.5),
        "extrapolated": ("beta_max", 1.5),
        "mixup": ("gamma_max", 1.0),
    },
    SYNCO_V2: {
        "interpolated": ("alpha_max", 0.5),
        "extrapolated": ("beta_max", 1.5),
        "mixup": ("gamma_max", 1.0),
        "noise": ("sigma", 0.1),
        "perturbed": ("delta", 0.01),
        "adversarial": ("eta", 0.01),
    },
}
"""Constants that are fixed in the code: version -> kind -> (field, value)."""

_OPTIMIZER: dict[str, dict[str, Any]] = {
    SYNCO_V1: {
        "name": "sgd",
        "decay": None,
        "schedule_every": "epoch",
        "warmup_epochs": 0.0,
        "learning_rate_min_base": 0.0,
        "weight_decay_of": "all",
        "weight_decay_end": None,
        "gradient_clip_norm": None,
    },
    SYNCO_V2: {
        "schedule_every": "step",
        "cosine_includes_warmup": True,
        "images_per_step_of_base_rate": 512,
        "weight_decay_of": "matrices_and_tokens",
        "weight_decay_end": None,
    },
}
"""What the code does with the optimizer: version -> field of train.optimizer -> value."""


def filled_in(section: dict[str, Any]) -> dict[str, Any]:
    """Section `method` as written -> the same, values left out replaced by the published ones.

    synco_v2: the code's kinds of synthesized negatives. SynCo: sigma of the noise, 0.01, its paper's too.
    """
    negatives = section.get("negatives")
    if not isinstance(negatives, dict):
        return section
    if section.get("compat") == SYNCO_V2:
        return {**section, "negatives": {**COUNTS_OF_SYNCO_V2, **negatives}}
    noise = negatives.get("noise")
    if section.get("framework") != "synco" or noise is None:
        return section
    noise = {"sigma": 0.01, **(noise if isinstance(noise, dict) else {"count": noise})}
    return {**section, "negatives": {**negatives, "noise": noise}}


def negatives_that_run(negatives: NegativesSpec, version: str) -> NegativesSpec:
    """The synthesized negatives that the published code makes when its configuration asks for these.

    Raises:
        SpecError: the published code crashes with them.
    """
    counts = {name: getattr(negatives, name).count for name in COUNTS_OF_SYNCO_V2}
    if version == SYNCO_V2:
        counts = dict(COUNTS_OF_SYNCO_V2)
    counts = crossed_switches(counts)
    changes = {}
    for name, count in counts.items():
        constants = dict([_CONSTANTS[version][name]]) if name in _CONSTANTS[version] else {}
        changes[name] = getattr(negatives, name).model_copy(update={"count": count, **constants})
    return negatives.model_copy(update=changes)


def crossed_switches(counts: dict[str, int]) -> dict[str, int]:
    """Counts after the two crossed switches of both versions.

    Noise is made when `perturbed` has a count, and perturbed when `noise` has one.

    Raises:
        SpecError: noise without perturbed, which makes the code stack an empty list.
    """
    if counts["noise"] and not counts["perturbed"]:
        fault = Fault(
            "method.negatives.perturbed",
            f"0 with {counts['noise']} of noise: the published code crashes (it crosses the two switches)",
            "both counts above 0, or noise 0",
            "give perturbed a count, or leave method.compat out",
        )
        raise SpecError([fault])
    return {**counts, "perturbed": counts["perturbed"] if counts["noise"] else 0}


def optimizer_that_runs(version: str, images_per_step_global: int) -> dict[str, Any]:
    """Fields of train.optimizer that the published code leaves no choice about: name -> value."""
    fields = dict(_OPTIMIZER[version])
    if version == SYNCO_V1:
        # It takes the rate as it is, whatever the batch: a scale of 1.
        fields["images_per_step_of_base_rate"] = images_per_step_global
    return fields


def differing_negatives(negatives: NegativesSpec, version: str) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key below `negatives`, given, what runs) wherever the published code runs something else."""
    runs = negatives_that_run(negatives, version)
    for name in COUNTS_OF_SYNCO_V2:
        given, published = getattr(negatives, name), getattr(runs, name)
        for field in type(given).model_fields:
            if getattr(given, field) != getattr(published, field):
                yield f"{name}.{field}", getattr(given, field), getattr(published, field)
