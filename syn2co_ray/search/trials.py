"""A trial: a point of the space with one seed, as an ordinary pre-training job."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec.identity import run_name
from ..spec.job import PretrainSpec
from ..spec.load import build_spec
from ..spec.points import Point
from ..spec.search import SearchSpec
from ..spec.trial_specs import trial_values

TRIALS_FOLDER = "trials"


@dataclass(frozen=True)
class Trial:
    """One training of a search.

    Attributes:
        number: from 0; points come one after the other, each with all its seeds.
        point_number: of its point.
        point: dotted keys and their values.
        job: the base with these values, a seed, and a place below the search's folder.
        stop_after_epochs: where it pauses, if not at its end (in a population).
    """

    number: int
    point_number: int
    point: Point
    job: PretrainSpec
    stop_after_epochs: int | None = None


def search_folder(search: SearchSpec) -> str:
    """URI of the search's folder: below the base's storage, name and short hash."""
    return f"{search.training.storage.rstrip('/')}/{run_name(search)}"


def make_trial(
    search: SearchSpec,
    number: int,
    point: Point,
    *,
    since_epoch: int = 0,
    stop_after_epochs: int | None = None,
) -> Trial:
    """The trial of this number, whose point is given.

    In a population it has that point `since_epoch`: its training goes on in a run folder of its own then.

    Raises:
        SpecError: the base's spec refuses the point.
    """
    point_number, seed_number = divmod(number, search.seeds)
    values = trial_values(search, point)
    since = f"-e{since_epoch}" if since_epoch else ""
    values["name"] = f"{search.name}-{point_number:03d}{since}"
    values["seed"] += seed_number
    values["storage"] = f"{search_folder(search)}/{TRIALS_FOLDER}"
    job = build_spec(values)
    assert isinstance(job, PretrainSpec)
    return Trial(number, point_number, point, job, stop_after_epochs)
