"""`syn2co plan`: what a job would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.filesize import decimal

from ..augment.recipes import view_bytes_per_image
from ..data.index import build_index
from ..generate.slots import number_of_shards
from ..spec.data import ShareSchedule
from ..spec.errors import StorageError
from ..spec.generate import GenerateSpec
from ..spec.identity import resolved_yaml, run_name, spec_hash
from ..spec.job import SingleJobSpec, TrainingSpec
from ..spec.rules import worker_counts_allowed
from ..storage import list_files, open_store
from .cluster import Cluster, connected
from .generate import check_resources
from .prepare import make_plan
from .resources import choose_workers


def plan_lines(steps: Sequence[SingleJobSpec], *, debug: bool = False) -> Iterator[str]:
    """Lines of the plan of jobs that run one after the other; refuses what cannot be scheduled.

    Raises:
        ResourceError: the cluster can never run it.
        DataError, StorageError: a source that cannot be used.
    """
    with connected(debug=debug) as cluster:
        pass
    where = "this machine" if cluster.is_local else "the cluster of RAY_ADDRESS"
    made_before: list[str] = []
    for number, job in enumerate(steps):
        if number:
            yield ""
        what = "data set" if isinstance(job, GenerateSpec) else "run"
        yield f"{what} {run_name(job)} (spec {spec_hash(job)})"
        yield ""
        yield resolved_yaml(job).rstrip()
        yield ""
        yield f"cluster: {where}, {cluster.nodes} node(s), {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs"
        if isinstance(job, GenerateSpec):
            yield from _generate_lines(job, cluster)
            made_before.append(job.into)
        else:
            yield from _training_lines(job, cluster, made_before)


def _generate_lines(job: GenerateSpec, cluster: Cluster) -> Iterator[str]:
    check_resources(job, cluster)
    actors, shards = job.actors, number_of_shards(job)
    there = len(
        [
            info
            for info in list_files(open_store(job.into, job.object_store), recursive=False, missing_ok=True)
            if info.path.startswith("shard-")
        ]
    )
    yield (
        f"asked: {actors.min} to {actors.max} actors of {actors.cpus_each:g} CPUs and "
        f"{actors.gpus_each:g} GPUs"
    )
    yield (
        f"images: {job.images:,} in {shards:,} shards of up to {job.images_per_shard:,}, "
        f"{job.pipeline.steps} denoising steps each; {there:,} shards are in {job.into}"
    )


def _training_lines(job: TrainingSpec, cluster: Cluster, made_before: list[str]) -> Iterator[str]:
    asked = choose_workers(job, cluster.cpus, cluster.gpus)
    yield (
        f"asked: {asked.cpus:g} CPUs, {asked.gpus:g} GPUs for {asked.workers} workers, "
        f"{job.augment.actors.min} to {job.augment.actors.max} augmentation actors, readers; "
        f"worker counts allowed: {', '.join(map(str, worker_counts_allowed(job.train)))}"
    )
    yield from _data_lines(job, asked.workers, made_before)


def _data_lines(job: TrainingSpec, workers: int, made_before: list[str]) -> Iterator[str]:
    try:
        indexes = tuple(build_index(source, job.object_store) for source in job.data.train)
    except StorageError:
        writers = [f"data.prepare ({step.dataset})" for step in job.data.prepare]
        writers += [f"the step that makes {uri}" for uri in made_before]
        if not writers:
            raise
        yield f"data: written first by {', '.join(writers)}"
        return
    plan = make_plan(job, indexes)
    mean_bytes = sum(
        float(share) * int(index.file_bytes.sum()) / index.num_records
        for share, index in zip(plan.shares_in(0), indexes, strict=True)
    )
    images = plan.steps_per_epoch * plan.images_per_step_global
    for index, share in zip(indexes, plan.shares_in(0), strict=True):
        changes = " in epoch 0, changing" if isinstance(index.source.share, ShareSchedule) else ""
        yield (
            f"source: {index.source.uri} ({index.source.format}, {index.source.origin}): "
            f"{index.num_records:,} images, {len(index.files):,} files, "
            f"{len(index.fragment_rows):,} fragments, share {float(share):.1%}{changes}"
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
