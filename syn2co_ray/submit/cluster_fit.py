"""Whether a job fits a cluster that is described by its nodes and by what its autoscaler may add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..spec.generate import GenerateSpec
from ..spec.job import JobSpec, steps_of
from ..spec.search import SearchSpec
from .autoscaler import nodes_to_come
from .cluster import Cluster
from .generate import check_resources
from .resources import choose_workers, gpus_in_words
from .search_room import concurrent_trials


def cluster_of(nodes: Sequence[Mapping[str, float]], limits: dict[str, Any] | None) -> Cluster:
    """The cluster as large as it may get."""
    every = [*nodes, *nodes_to_come(limits, len(nodes))]
    return Cluster(
        sum(node.get("CPU", 0.0) for node in every), tuple(node.get("GPU", 0.0) for node in every), False
    )


def fit_lines(job: JobSpec, nodes: Sequence[Mapping[str, float]], limits: dict[str, Any] | None) -> list[str]:
    """What the job asks for against what is there and may come, in words.

    Raises:
        ResourceError: it can never be scheduled there.
    """
    there, largest = cluster_of(nodes, None), cluster_of(nodes, limits)
    lines = [f"cluster: {there.nodes} node(s), {there.cpus:g} CPUs, {gpus_in_words(there.node_gpus)}"]
    if largest.nodes > there.nodes:
        lines[0] += (
            f"; its autoscaler may add {largest.nodes - there.nodes} more, to {largest.cpus:g} CPUs and "
            f"{largest.gpus:g} GPUs"
        )
    if isinstance(job, SearchSpec):
        lines.append(f"asked: {concurrent_trials(job, largest.cpus, largest.node_gpus)} trials at once")
        return lines
    for step in steps_of(job):
        if isinstance(step, GenerateSpec):
            check_resources(step, largest)
            actors = step.actors
            lines.append(
                f"asked by {step.name}: {actors.min} to {actors.max} actors of {actors.cpus_each:g} CPUs and "
                f"{actors.gpus_each:g} GPUs"
            )
        else:
            asked = choose_workers(step, largest.cpus, largest.node_gpus)
            lines.append(
                f"asked by {step.name}: {asked.cpus:g} CPUs and {asked.gpus:g} GPUs for {asked.workers} "
                "workers and what feeds them"
            )
    return lines
