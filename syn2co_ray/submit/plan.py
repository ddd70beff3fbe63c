"""`syn2co plan`: what a job would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.filesize import decimal

from ..augment.recipes import resolve_recipe, view_bytes_per_image
from ..data.index import build_index
from ..data.plan import Plan
from ..generate.ledger import shards_of_run
from ..generate.slots import number_of_shards
from ..spec.base import Pool
from ..spec.embed import EmbedSpec
from ..spec.errors import StorageError
from ..spec.evaluation import EvaluateJobSpec
from ..spec.export import ExportSpec
from ..spec.generate import GenerateSpec
from ..spec.identity import resolved_yaml, run_name, spec_hash
from ..spec.job import SingleJobSpec, TrainingSpec
from ..spec.live import LiveSpec
from ..spec.probe_jobs import jobs_for_their_resources
from ..spec.rules import worker_counts_allowed
from ..spec.source import ShareSchedule
from ..storage import list_files, open_store
from ..train.room import view_threads
from .cluster import Cluster, connected
from .detection_workers import choose_detection_workers
from .placement import Place, Situation, advise, images_per_s
from .prepare import make_plan
from .resources import check_actors, choose_workers


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
        later = f" ({cluster.nodes_to_come} of them may be added)" if cluster.nodes_to_come else ""
        yield (
            f"cluster: {where}, {cluster.nodes} node(s){later}, {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs"
        )
        if isinstance(job, GenerateSpec):
            yield from _generate_lines(job, cluster)
            made_before.append(job.into)
        elif isinstance(job, ExportSpec):
            yield f"export: {', '.join(job.formats)}, on the CPU of the machine that runs the command"
        elif isinstance(job, EvaluateJobSpec):
            yield f"evaluation: {', '.join(_protocols(job))}, on the machine that runs the command"
            if job.actors is not None:
                check_actors(job.actors, cluster)
                yield f"features: by {_actors_in_words(job.actors)}"
            for probe in jobs_for_their_resources(job):
                asked = choose_workers(probe, cluster.cpus, cluster.node_gpus)
                yield (
                    f"{probe.method.framework}, on the cluster: {asked.cpus:g} CPUs, {asked.gpus:g} GPUs for "
                    f"{asked.workers} workers, {_view_makers(probe)}, readers; worker counts allowed: "
                    f"{', '.join(map(str, worker_counts_allowed(probe.train)))}"
                )
            if job.detection is not None:
                count, pool = choose_detection_workers(job.detection, cluster), job.detection.workers
                yield (
                    f"detection, on the cluster: {count} workers of {pool.cpus_each:g} CPUs and "
                    f"{pool.gpus_each:g} GPUs"
                )
        elif isinstance(job, EmbedSpec):
            yield from _embed_lines(job, cluster, made_before)
        else:
            yield from _training_lines(job, cluster, made_before)


def _protocols(job: EvaluateJobSpec) -> list[str]:
    names = (
        "knn",
        "linear",
        "linear_augmented",
        "few_shot",
        "label_shares",
        "fine_tune",
        "retrieval",
        "landmarks",
        "robustness",
        "statistics",
        "video_segmentation",
        "detection",
    )
    return [name for name in names if getattr(job, name)]


def _actors_in_words(actors: Pool) -> str:
    return f"{actors.min} to {actors.max} actors of {actors.cpus_each:g} CPUs and {actors.gpus_each:g} GPUs"


def _embed_lines(job: EmbedSpec, cluster: Cluster, made_before: list[str]) -> Iterator[str]:
    check_actors(job.actors, cluster)
    yield f"asked: {_actors_in_words(job.actors)}"
    for source in job.sources:
        try:
            index = build_index(source, job.object_store)
        except StorageError:
            writers = [f"prepare ({step.dataset})" for step in job.prepare]
            writers += [f"the step that makes {uri}" for uri in made_before]
            if not writers:
                raise
            yield f"source: {source.uri}: written first by {', '.join(writers)}"
            continue
        shards = -(-index.num_records // job.images_per_shard)
        yield (
            f"source: {index.source.uri} ({index.source.format}): {index.num_records:,} images, at most "
            f"{shards:,} shards of {job.images_per_shard:,} or more"
        )


def _generate_lines(job: GenerateSpec, cluster: Cluster) -> Iterator[str]:
    check_actors(job.actors, cluster)
    actors, shards = job.actors, number_of_shards(job)
    there = len(
        [
            info
            for info in list_files(open_store(job.into, job.object_store), recursive=False, missing_ok=True)
            if info.path.startswith("shard-")
        ]
    )
    yield f"asked: {_actors_in_words(actors)}"
    yield (
        f"images: {job.images:,} in {shards:,} shards of up to {job.images_per_shard:,}, "
        f"{job.pipeline.steps} denoising steps each; {there:,} shards are in {job.into}"
    )


def _training_lines(job: TrainingSpec, cluster: Cluster, made_before: list[str]) -> Iterator[str]:
    asked = choose_workers(job, cluster.cpus, cluster.node_gpus)
    yield (
        f"asked: {asked.cpus:g} CPUs, {asked.gpus:g} GPUs for {asked.workers} workers, "
        f"{_view_makers(job)}, readers; "
        f"worker counts allowed: {', '.join(map(str, worker_counts_allowed(job.train)))}"
    )
    yield from _data_lines(job, asked.workers, cluster, made_before)


def _view_makers(job: TrainingSpec) -> str:
    if job.augment.placement == "trainer":
        return "which make their own views"
    return f"{job.augment.actors.min} to {job.augment.actors.max} augmentation actors"


def _live_lines(live: LiveSpec, plan: Plan) -> Iterator[str]:
    images = shards_of_run(live, plan.live_passes) * live.generator.images_per_shard
    actors = live.generator.actors
    yield (
        f"live source: {live.generator.pipeline.source}, share {float(plan.shares_in(0)[-1]):.1%}; a pool of "
        f"{live.pool_images:,} images, {plan.live_passes:,} passes over it, {live.uses} uses of an image: "
        f"up to {images:,} images generated by {actors.min} to {actors.max} actors"
    )


def _data_lines(job: TrainingSpec, workers: int, cluster: Cluster, made_before: list[str]) -> Iterator[str]:
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
    shares = plan.shares_in(0)  # the live source's is the last one
    mean_bytes = sum(
        float(share) * int(index.file_bytes.sum()) / index.num_records
        for share, index in zip(shares, indexes, strict=False)
    )
    images = plan.steps_per_epoch * plan.images_per_step_global
    for index, share in zip(indexes, shares, strict=False):
        changes = " in epoch 0, changing" if isinstance(index.source.share, ShareSchedule) else ""
        yield (
            f"source: {index.source.uri} ({index.source.format}, {index.source.origin}): "
            f"{index.num_records:,} images, {len(index.files):,} files, "
            f"{len(index.fragment_rows):,} fragments, share {float(share):.1%}{changes}"
        )
    if job.data.live is not None:
        yield from _live_lines(job.data.live, plan)
    yield (
        f"steps: {plan.steps_per_epoch:,} an epoch x {job.train.epochs} epochs = {plan.total_steps:,} "
        f"of {plan.images_per_step_global} images ({plan.images_per_step_global // workers} a worker)"
    )
    window_images = plan.steps_per_window * plan.images_per_step_global
    yield (
        f"windows: {plan.total_windows:,} of {plan.steps_per_window} steps "
        f"({window_images:,} images, about {decimal(int(window_images * mean_bytes))} in a read task)"
    )
    read, views = images * mean_bytes, images * view_bytes_per_image(job.augment)
    through_store = f"{decimal(views)} of views" if job.augment.placement == "actors" else "the same"
    yield f"bytes: {decimal(int(read))} read an epoch, {through_store} through the object store"
    yield from _augmentation_lines(job, workers, cluster, mean_bytes)


def _augmentation_lines(
    job: TrainingSpec, workers: int, cluster: Cluster, image_bytes: float
) -> Iterator[str]:
    actors, pool = job.augment.actors, job.train.workers
    there = Situation(
        cpus=cluster.cpus,
        gpus=cluster.gpus,
        workers=workers,
        worker_cpus_each=pool.cpus_each,
        worker_gpus_each=pool.gpus_each,
        reader_cpus_each=job.data.reader_cpus_each,
        threads_each=view_threads(pool.cpus_each),
        image_bytes=image_bytes,
        view_sizes=[view.image_size for view in resolve_recipe(job.augment)],
    )
    place: Place
    if job.augment.placement == "trainer":
        place, cpus = "trainer", there.cpus_of_trainers
    else:
        place = "actors with GPU fractions" if actors.gpus_each else "actors on CPUs"
        cpus = actors.max * min(1.0, actors.cpus_each)
    own, advised = images_per_s(there, place, cpus), advise(there)
    step_ms = 1000 * job.train.images_per_step_global / own
    yield (
        f"augmentation: {place}, at most about {own:,.0f} images/s: steps shorter than {step_ms:,.0f} ms "
        f"would wait (an estimate from {decimal(int(image_bytes))} an image, the views' pixels, and "
        "bench_augment's figures for one core of an AMD EPYC)"
    )
    yield (
        f"augmentation: {advised.place} advised, at most about {advised.images_per_s:,.0f} images/s: "
        f"{advised.why}"
    )
