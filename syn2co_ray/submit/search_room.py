"""How many trials of a search run at once, and with how many workers each, so that none starves another."""

from __future__ import annotations

from collections.abc import Sequence

from ..spec.base import Pool
from ..spec.errors import ResourceError
from ..spec.job import PretrainSpec
from ..spec.load import build_spec
from ..spec.points import corner_points, number_of_points, points_of
from ..spec.rules import worker_counts_allowed
from ..spec.search import SearchSpec
from ..spec.trial_specs import trial_values
from ..train.room import UNITS, gpus_fit
from .resources import Asked, asked_resources, choose_workers, gpus_in_words


def concurrent_trials(search: SearchSpec, cpus_there: float, node_gpus: Sequence[float]) -> int:
    """Trials that run at once, each with its fewest workers: as many as the scarce resource allows.

    Ray Train takes what its workers need piece by piece: two trials that each hold a part of what both need
    would wait for each other. So what does not fit whole is not started.

    Raises:
        ResourceError: a trial can never run, or `max_concurrent` of them do not fit.
    """
    points = points_of(search) or corner_points(search.space)
    jobs = [build_spec(trial_values(search, point)) for point in points]
    least = []
    for job in jobs:
        assert isinstance(job, PretrainSpec)
        choose_workers(job, cpus_there, node_gpus)
        least.append(asked_resources(job, worker_counts_allowed(job.train)[0]))
    largest = _largest(least)
    count = 1
    while count < number_of_points(search) * search.seeds and _fit(largest, count + 1, cpus_there, node_gpus):
        count += 1
    if search.max_concurrent is None:
        return count
    if search.max_concurrent > 1 and not _fit(largest, search.max_concurrent, cpus_there, node_gpus):
        raise ResourceError(
            "max_concurrent",
            f"{search.max_concurrent} trials ask for {search.max_concurrent * largest.cpus:g} CPUs and "
            f"{search.max_concurrent * largest.gpus:g} GPUs and would wait for each other",
            f"at most {count} on {cpus_there:g} CPUs and {gpus_in_words(node_gpus)}",
            "lower it or leave it out",
        )
    return search.max_concurrent


def job_within_its_share(
    job: PretrainSpec, concurrent: int, cpus_there: float, node_gpus: Sequence[float]
) -> PretrainSpec:
    """The job with the most workers, then the most view actors, that fit beside as many others like it.

    Pools grow while there is room: what one took beyond its share, another trial's workers would wait for.
    """

    def largest(pool: Pool, counts: Sequence[int], section: str, name: str) -> PretrainSpec:
        within = [_with_pool(job, section, name, pool, count) for count in counts]
        fitting = [each for each in within if _fit(_asked_at_most(each), concurrent, cpus_there, node_gpus)]
        return fitting[-1] if fitting else within[0]

    actors, live = job.augment.actors, job.data.live
    job = _with_pool(job, "augment", "actors", actors, actors.min)
    if live is not None:
        generating = live.generator.actors.model_copy(update={"max": live.generator.actors.min})
        generator = live.generator.model_copy(update={"actors": generating})
        data = job.data.model_copy(update={"live": live.model_copy(update={"generator": generator})})
        job = job.model_copy(update={"data": data})
    job = largest(job.train.workers, worker_counts_allowed(job.train), "train", "workers")
    return largest(actors, range(actors.min, actors.max + 1), "augment", "actors")


def _with_pool(job: PretrainSpec, section: str, name: str, pool: Pool, most: int) -> PretrainSpec:
    changed = getattr(job, section).model_copy(update={name: pool.model_copy(update={"max": most})})
    return job.model_copy(update={section: changed})


def _asked_at_most(job: PretrainSpec) -> Asked:
    """What the job asks for when its pools have grown to the full."""
    actors = job.augment.actors
    full = _with_pool(job, "augment", "actors", actors.model_copy(update={"min": actors.max}), actors.max)
    return asked_resources(full, job.train.workers.max)


def _largest(all_asked: Sequence[Asked]) -> Asked:
    """What covers each of them: of every resource as much as the one that asks for the most."""
    longest = max(len(asked.gpu_requests) for asked in all_asked)
    requests = [sorted(asked.gpu_requests, reverse=True) for asked in all_asked]
    gpus = tuple(max((r[i] for r in requests if i < len(r)), default=0.0) for i in range(longest))
    return Asked(max(asked.workers for asked in all_asked), max(asked.cpus for asked in all_asked), gpus)


def _fit(asked: Asked, count: int, cpus_there: float, node_gpus: Sequence[float]) -> bool:
    return count * asked.cpus <= cpus_there + 1 / UNITS and gpus_fit(node_gpus, asked.gpu_requests * count)
