"""Whether a job fits a cluster that is described by its nodes and by what its autoscaler may add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..spec.embed import EmbedSpec
from ..spec.evaluation import EvaluateJobSpec
from ..spec.generate import GenerateSpec
from ..spec.job import JobSpec, TrainingSpec, steps_of
from ..spec.probe_jobs import jobs_for_their_resources
from ..spec.search import SearchSpec
from .cluster import cluster_of
from .detection_workers import choose_detection_workers
from .resources import check_actors, choose_workers, gpus_in_words
from .search_room import concurrent_trials


def fit_lines(job: JobSpec, nodes: Sequence[Mapping[str, float]], limits: dict[str, Any] | None) -> list[str]:
    """What the job asks for against what is there and may come, in words.

    Raises:
        ResourceError: it can never be scheduled there.
    """
    there, largest = cluster_of(nodes, None), cluster_of(nodes, limits)
    lines = [f"cluster: {there.nodes} node(s), {there.cpus:g} CPUs, {gpus_in_words(there.node_gpus)}"]
    if largest.nodes_to_come:
        lines[0] += (
            f"; its autoscaler may add {largest.nodes_to_come} more, to {largest.cpus:g} CPUs and "
            f"{largest.gpus:g} GPUs"
        )
    if isinstance(job, SearchSpec):
        lines.append(f"asked: {concurrent_trials(job, largest.cpus, largest.node_gpus)} trials at once")
        return lines
    for step in steps_of(job):
        told = len(lines)
        if isinstance(step, GenerateSpec | EmbedSpec | EvaluateJobSpec) and step.actors is not None:
            actors = step.actors
            check_actors(actors, largest)
            lines.append(
                f"asked by {step.name}: {actors.min} to {actors.max} actors of {actors.cpus_each:g} CPUs and "
                f"{actors.gpus_each:g} GPUs"
            )
        elif isinstance(step, TrainingSpec):
            asked = choose_workers(step, largest.cpus, largest.node_gpus)
            lines.append(
                f"asked by {step.name}: {asked.cpus:g} CPUs and {asked.gpus:g} GPUs for {asked.workers} "
                "workers and what feeds them"
            )
        if isinstance(step, EvaluateJobSpec):
            for probe in jobs_for_their_resources(step):
                asked = choose_workers(probe, largest.cpus, largest.node_gpus)
                lines.append(
                    f"asked by {step.name} ({probe.method.framework}): {asked.cpus:g} CPUs and "
                    f"{asked.gpus:g} GPUs for {asked.workers} workers and what feeds them"
                )
            if step.detection is not None:
                count, pool = choose_detection_workers(step.detection, largest), step.detection.workers
                lines.append(
                    f"asked by {step.name} (detection): {count} workers of {pool.cpus_each:g} CPUs and "
                    f"{pool.gpus_each:g} GPUs"
                )
        if len(lines) == told:
            lines.append(f"asked by {step.name}: nothing beyond the machine that runs the command")
    return lines
