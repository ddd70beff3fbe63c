"""What the processes of a detector's training are told, and how many there may be.

Imports no torch: Ray's controller loads it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..spec.detection import DetectionSpec
from ..spec.errors import ResourceError
from ..spec.evaluation import EvaluateJobSpec
from ..spec.identity import run_name
from ..storage import Store
from ..train.room import Room, gpus_fit
from .cluster import Cluster
from .resources import gpus_in_words


@dataclass(frozen=True)
class DetectionTask:
    """One network's training, as every rank gets it."""

    job: EvaluateJobSpec
    name: str
    """Of the network."""
    is_random: bool
    """The same architecture with random weights."""
    place: Store
    """Folder of its checkpoint."""
    identity: str
    """Of job, weights and sets; a checkpoint of another is refused."""
    board: Any
    boxed: list[Any]
    """A reference to both `AnnotatedSet`s, in a box: a bare one would be fetched on the way."""


def training_name(job: EvaluateJobSpec, network: str) -> str:
    """Of one network's training, for its metrics and logs."""
    return f"{run_name(job)}-{network.replace(' ', '-')}"


def room_for_detection(spec: DetectionSpec) -> Room:
    """Which numbers of workers are allowed: any that leaves each an image of a step."""
    pool = spec.workers
    counts = range(pool.min, min(pool.max, spec.images_per_step) + 1)
    return Room(tuple(counts), pool.cpus_each, pool.gpus_each, ())


def choose_detection_workers(spec: DetectionSpec, cluster: Cluster) -> int:
    """The largest allowed number of workers that fits.

    Raises:
        ResourceError: not even the smallest does.
    """
    room = room_for_detection(spec)
    for count in reversed(room.counts):
        if count * room.cpus_each <= cluster.cpus and gpus_fit(cluster.node_gpus, [room.gpus_each] * count):
            return count
    raise ResourceError(
        "detection.workers",
        f"{room.counts[0]} workers of {room.cpus_each:g} CPUs and {room.gpus_each:g} GPUs",
        f"at most the cluster's {cluster.cpus:g} CPUs and {gpus_in_words(cluster.node_gpus)}",
        "lower their number, cpus_each or gpus_each, or add nodes",
    )
