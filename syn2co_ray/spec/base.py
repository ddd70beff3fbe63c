"""What all sections of a job share: strict, frozen, unknown keys refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict


class Section(BaseModel):
    """A part of a job file. Strict types; a key it does not know is a fault, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def _count_as_range(value: Any) -> Any:
    return {"min": value, "max": value} if isinstance(value, int) else value


class Pool(Section):
    """How many processes of one sort may run, and what each one asks of the cluster."""

    min: int = Field(ge=1)
    """Fewest processes the job can run with."""
    max: int = Field(ge=1)
    """Most processes the job may use."""
    cpus_each: float = Field(default=1.0, gt=0)
    """Logical CPUs reserved by each process; fractions are allowed."""
    gpus_each: float = Field(default=0.0, ge=0)
    """GPUs reserved by each process; fractions share one GPU."""


PoolOrCount = Annotated[Pool, BeforeValidator(_count_as_range, json_schema_input_type=int | Pool)]
"""`workers: 2` is short for `workers: {min: 2, max: 2}`."""

# Marks a field that says how a job is executed, not what it computes: it is left out of the run's
# identity, so a run can be resumed with other workers, actors or checkpoint cadence.
EXECUTION_ONLY: JsonDict = {"execution_only": True}
