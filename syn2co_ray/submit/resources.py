"""Resources a job asks for against those a cluster has: refused before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec.errors import ResourceError
from ..spec.job import TrainingSpec
from ..spec.rules import worker_counts_allowed
from ..train.room import Room


@dataclass(frozen=True)
class Asked:
    """Logical CPUs and GPUs of a start with this many workers and the fewest actors."""

    workers: int
    cpus: float
    gpus: float


def asked_for_training(job: TrainingSpec, workers: int, view_actors: int) -> Asked:
    """Workers, view actors, one read task."""
    actors, pool = job.augment.actors, job.train.workers
    return Asked(
        workers,
        cpus=workers * pool.cpus_each + view_actors * actors.cpus_each + job.data.reader_cpus_each,
        gpus=workers * pool.gpus_each + view_actors * actors.gpus_each,
    )


def asked_resources(job: TrainingSpec, workers: int) -> Asked:
    """What must be there at once: all workers, the fewest actors of each sort, one read task."""
    asked = asked_for_training(job, workers, job.augment.actors.min)
    if job.data.live is None:
        return asked
    generating = job.data.live.generator.actors
    cpus = asked.cpus + generating.min * generating.cpus_each
    return Asked(workers, cpus, asked.gpus + generating.min * generating.gpus_each)


def room_for_workers(job: TrainingSpec) -> Room:
    """Which numbers of workers are allowed, and what they and the rest of the job need."""
    pool, beside = job.train.workers, asked_resources(job, 0)
    counts = tuple(worker_counts_allowed(job.train))
    return Room(counts, pool.cpus_each, pool.gpus_each, beside.cpus, beside.gpus)


def choose_workers(job: TrainingSpec, cpus_there: float, gpus_there: float) -> Asked:
    """The largest allowed number of workers that fits together with reading and augmentation.

    Raises:
        ResourceError: not even the smallest fits. Workers that took everything would starve Ray Data
            without a word, so reading and augmentation are always counted in.
    """
    for workers in reversed(worker_counts_allowed(job.train)):
        asked = asked_resources(job, workers)
        # Ray counts in steps of 1/10,000.
        if asked.cpus <= cpus_there + 1e-4 and asked.gpus <= gpus_there + 1e-4:
            return asked
    least = asked_resources(job, worker_counts_allowed(job.train)[0])
    live = job.data.live
    fields, generating = "train.workers, augment.actors, data.reader_cpus_each", ""
    if live is not None:
        pool = live.generator.actors
        fields += ", data.live.generator.actors"
        generating = f", {pool.min} generating actors x {pool.cpus_each:g} CPUs and {pool.gpus_each:g} GPUs"
    raise ResourceError(
        fields,
        f"together ask for {least.cpus:g} CPUs and {least.gpus:g} GPUs "
        f"({least.workers} workers x {job.train.workers.cpus_each:g} CPUs, "
        f"{job.augment.actors.min} actors x {job.augment.actors.cpus_each:g}, "
        f"a read task x {job.data.reader_cpus_each:g}{generating})",
        f"at most the cluster's {cpus_there:g} CPUs and {gpus_there:g} GPUs",
        "lower the counts or the cpus_each / gpus_each (fractions are allowed), or use a larger cluster",
    )
