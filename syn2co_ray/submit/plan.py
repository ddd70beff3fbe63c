"""`syn2co plan`: what a job would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.filesize import decimal

from ..augment.recipes import view_bytes_per_image
from ..data.index import build_index
from ..spec.errors import StorageError
from ..spec.identity import resolved_yaml, run_name, spec_hash
from ..spec.job import PretrainSpec
from ..spec.rules import worker_counts_allowed
from .cluster import connected
from .prepare import make_plan
from .resources import choose_workers


def plan_lines(job: PretrainSpec, *, debug: bool = False) -> Iterator[str]:
    """Lines of the plan; refuses a job that cannot be scheduled.

    Raises:
        ResourceError: the cluster can never run it.
        DataError, StorageError: a source that cannot be used.
    """
    yield f"run {run_name(job)} (spec {spec_hash(job)})"
    yield ""
    yield resolved_yaml(job).rstrip()
    yield ""
    with connected(debug=debug) as cluster:
        where = "this machine" if cluster.is_local else "the cluster of RAY_ADDRESS"
        asked = choose_workers(job, cluster.cpus, cluster.gpus)
        yield f"cluster: {where}, {cluster.nodes} node(s), {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs"
    yield (
        f"asked: {asked.cpus:g} CPUs, {asked.gpus:g} GPUs for {asked.workers} workers, "
        f"{job.augment.actors.min} to {job.augment.actors.max} augmentation actors, readers; "
        f"worker counts allowed: {', '.join(map(str, worker_counts_allowed(job.train)))}"
    )
    yield from _data_lines(job, asked.workers)


def _data_lines(job: PretrainSpec, workers: int) -> Iterator[str]:
    try:
        indexes = tuple(build_index(source, job.object_store) for source in job.data.train)
    except StorageError:
        if not job.data.prepare:
            raise
        yield f"data: written first by data.prepare ({', '.join(step.dataset for step in job.data.prepare)})"
        return
    plan = make_plan(job, indexes)
    mean_bytes = sum(
        float(share) * int(index.file_bytes.sum()) / index.num_records
        for share, index in zip(plan.exact_shares, indexes, strict=True)
    )
    images = plan.steps_per_epoch * plan.images_per_step_global
    for index, share in zip(indexes, plan.exact_shares, strict=True):
        yield (
            f"source: {index.source.uri} ({index.source.format}, {index.source.origin}): "
            f"{index.num_records:,} images, {len(index.files):,} files, "
            f"{len(index.fragment_rows):,} fragments, share {float(share):.1%}"
        )
    yield (
        f"steps: {plan.steps_per_epoch:,} an epoch x {job.train.epochs} epochs = {plan.total_steps:,} "
        f"of {plan.images_per_step_global} images ({plan.images_per_step_global // workers} a worker)"
    )
    window_images = plan.steps_per_window * plan.images_per_step_global
    yield (
        f"windows: {plan.total_windows:,} of {plan.steps_per_window} steps "
        f"({window_images:,} images, about {decimal(int(window_images * mean_bytes))} in a read task)"
    )
    view_bytes = view_bytes_per_image(job.augment)
    yield (
        f"bytes: {decimal(int(images * mean_bytes))} read an epoch, "
        f"{decimal(images * view_bytes)} of views through the object store"
    )
