"""Resources a job asks for against those a cluster has: refused before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..report.bound import StreamMeasured, StreamResources
from ..spec.base import Pool
from ..spec.errors import ResourceError
from ..spec.job import TrainingSpec
from ..spec.rules import worker_counts_allowed
from ..train.room import UNITS, Room, gpus_fit, view_threads, whole_gpus
from .cluster import Cluster


@dataclass(frozen=True)
class Asked:
    """Logical CPUs of a start with this many workers and the fewest actors, and each process's GPUs."""

    workers: int
    cpus: float
    gpu_requests: tuple[float, ...]

    @property
    def gpus(self) -> float:
        """Of all processes together."""
        return sum(self.gpu_requests)


def asked_for_training(job: TrainingSpec, workers: int, view_actors: int) -> Asked:
    """Workers, view actors (none where workers make their own views), one read task."""
    actors, pool = job.augment.actors, job.train.workers
    if job.augment.placement == "trainer":
        view_actors = 0
    return Asked(
        workers,
        workers * pool.cpus_each + view_actors * actors.cpus_each + job.data.reader_cpus_each,
        _gpu_requests((workers, pool), (view_actors, actors)),
    )


def asked_resources(job: TrainingSpec, workers: int) -> Asked:
    """What must be there at once: all workers, the fewest actors of each sort, one read task."""
    asked = asked_for_training(job, workers, job.augment.actors.min)
    if job.data.live is None:
        return asked
    generating = job.data.live.generator.actors
    return Asked(
        workers,
        asked.cpus + generating.min * generating.cpus_each,
        asked.gpu_requests + _gpu_requests((generating.min, generating)),
    )


def room_for_workers(job: TrainingSpec) -> Room:
    """Which numbers of workers are allowed, and what they and the rest of the job need."""
    pool, counts = job.train.workers, tuple(worker_counts_allowed(job.train))
    beside = [(job.data.reader_cpus_each, 0.0)]
    if job.augment.placement == "actors":
        beside += _processes(job.augment.actors)
    if job.data.live is not None:
        beside += _processes(job.data.live.generator.actors)
    return Room(counts, pool.cpus_each, pool.gpus_each, tuple(beside))


def choose_workers(job: TrainingSpec, cpus_there: float, node_gpus: Sequence[float]) -> Asked:
    """The largest allowed number of workers that fits together with reading and augmentation.

    Args:
        job: the spec.
        cpus_there: logical CPUs of the cluster.
        node_gpus: GPUs of each node.

    Raises:
        ResourceError: not even the smallest fits. Workers that took everything would starve Ray Data
            without a word, so reading and augmentation are always counted in.
    """
    for workers in reversed(worker_counts_allowed(job.train)):
        asked = asked_resources(job, workers)
        if asked.cpus <= cpus_there + 1 / UNITS and gpus_fit(node_gpus, asked.gpu_requests):
            return asked
    least = asked_resources(job, worker_counts_allowed(job.train)[0])
    fields = ["train.workers", "data.reader_cpus_each"]
    parts = [
        _part(least.workers, "workers", job.train.workers),
        f"a read task x {job.data.reader_cpus_each:g} CPUs",
    ]
    if job.augment.placement == "actors":
        fields.insert(1, "augment.actors")
        parts.insert(1, _part(job.augment.actors.min, "actors", job.augment.actors))
    if job.data.live is not None:
        pool = job.data.live.generator.actors
        fields.append("data.live.generator.actors")
        parts.append(_part(pool.min, "generating actors", pool))
    raise ResourceError(
        ", ".join(fields),
        f"together ask for {least.cpus:g} CPUs and {least.gpus:g} GPUs ({', '.join(parts)})"
        f"{_why_not_packed(least.gpu_requests)}",
        f"at most the cluster's {cpus_there:g} CPUs and {gpus_in_words(node_gpus)}",
        "lower the counts or the cpus_each / gpus_each (fractions are allowed; one GPU can hold a worker of "
        "0.75 and an actor of 0.25), or use a larger cluster",
    )


def check_actors(actors: Pool, cluster: Cluster) -> None:
    """Refuse a pool whose fewest actors the cluster can never hold.

    Raises:
        ResourceError: too few CPUs or GPUs.
    """
    gpus = [actors.gpus_each] * actors.min
    if actors.min * actors.cpus_each > cluster.cpus or not gpus_fit(cluster.node_gpus, gpus):
        raise ResourceError(
            "actors",
            f"{actors.min} actors of {actors.cpus_each:g} CPUs and {actors.gpus_each:g} GPUs",
            f"what the cluster has: {cluster.cpus:g} CPUs, {gpus_in_words(cluster.node_gpus)}",
            "lower actors.min, cpus_each or gpus_each, or add nodes",
        )


def stream_resources(job: TrainingSpec, measured: StreamMeasured, cpus_there: float) -> StreamResources:
    """What the stream of a run had to work with beside its workers and actors."""
    actors, reader_cpus_each = job.augment.actors, job.data.reader_cpus_each
    others = asked_for_training(job, measured.workers, measured.makers).cpus - reader_cpus_each
    return StreamResources(
        placement=job.augment.placement,
        actors_max=actors.max,
        cpus_each=actors.cpus_each,
        gpus_each=actors.gpus_each,
        threads_each=view_threads(job.train.workers.cpus_each),
        readers_max=max(1, int((cpus_there - others) / reader_cpus_each + 1 / UNITS)),
        reader_cpus_each=reader_cpus_each,
        image_size=job.augment.image_size,
    )


def gpus_in_words(node_gpus: Sequence[float]) -> str:
    """GPUs of a cluster, and how they lie on its nodes if there are several with some."""
    with_gpus = [gpus for gpus in node_gpus if gpus]
    nodes = f" ({' + '.join(f'{gpus:g}' for gpus in with_gpus)} on its nodes)" if len(with_gpus) > 1 else ""
    return f"{sum(node_gpus):g} GPUs{nodes}"


def _why_not_packed(requests: Sequence[float]) -> str:
    """What fractions need, where that is more than their sum."""
    needed = whole_gpus(requests)
    if needed < sum(requests) + 1:
        return ""
    return f", which need {needed} GPUs: a fraction is of one GPU, and a whole GPU is not shared"


def _part(count: int, name: str, pool: Pool) -> str:
    gpus = f" and {pool.gpus_each:g} GPUs" if pool.gpus_each else ""
    return f"{count} {name} x {pool.cpus_each:g} CPUs{gpus}"


def _processes(pool: Pool) -> list[tuple[float, float]]:
    """CPUs and GPUs of each of the fewest actors of a pool."""
    return [(pool.cpus_each, pool.gpus_each)] * pool.min


def _gpu_requests(*processes: tuple[int, Pool]) -> tuple[float, ...]:
    return tuple(pool.gpus_each for count, pool in processes if pool.gpus_each for _ in range(count))
