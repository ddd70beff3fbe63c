"""Rules that look at more than one field of a job: the one place for them.

Each rule names the sections it needs as its parameters; it runs when those are valid by themselves,
so a fault in one section never hides one in another. A further rule is a function in one of these files.
"""

from . import (
    compat,
    detection,
    evaluation,
    framework,
    generation,
    population,
    search,
    track,
    training,
    training_probes,
    weights,
)
from .registry import cross_field_faults
from .training import worker_counts_allowed

__all__ = [
    "compat",
    "cross_field_faults",
    "detection",
    "evaluation",
    "framework",
    "generation",
    "population",
    "search",
    "track",
    "training",
    "training_probes",
    "weights",
    "worker_counts_allowed",
]
