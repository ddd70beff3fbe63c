"""From a spec to everything a run needs before any worker starts: data, indexes, plan, run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..augment.recipes import view_bytes_per_image
from ..data.index import SourceIndex, load_index, save_index
from ..data.plan import LivePool, Plan
from ..data.prepare import run_prepare
from ..data.stream import Stream
from ..evaluate.labelled import LabelledSet, check_labelled
from ..spec.errors import Fault, SpecError
from ..spec.job import PretrainSpec, TrainingSpec
from ..spec.source import ObjectStoreSpec, SourceSpec
from ..storage import Store, exists, publish_bytes, read_bytes
from ..storage.run_layout import INDEX_FOLDER, INHERITED_FILE, PROVENANCE_FILE
from ..train.run_folder import RunFolder, open_run
from .live import PreparedLive, prepare_live
from .provenance import data_records, provenance
from .shared import source_index


@dataclass(frozen=True)
class EvaluationSets:
    """Labelled images that k-NN and probe learn from, and those they classify."""

    bank: LabelledSet
    queries: LabelledSet
    shared: Store | None = None
    """Where the trials of a search leave what others need too."""


@dataclass(frozen=True)
class PreparedRun:
    """What is known and written before the cluster is asked for anything."""

    job: TrainingSpec
    run: RunFolder
    stream: Stream
    evaluation: EvaluationSets | None
    live: PreparedLive | None = None

    @property
    def plan(self) -> Plan:
        return self.stream.plan


def prepare_run(job: TrainingSpec, log: Callable[[str], None], shared: Store | None = None) -> PreparedRun:
    """Write the data sets the job asks for, index its sources, and open its run folder.

    With `shared` (the trials of a search) what another one has found out is taken from there.

    Raises:
        DataError, StorageError: a source that cannot be used, with what to do.
        SpecError: the sources hold too few images for one step.
    """
    run_prepare(job.data.prepare, job.object_store, log)
    run = open_run(job)
    indexes = tuple(
        frozen_index(run, f"train-{i}", source, job.object_store, log, shared)
        for i, source in enumerate(job.data.train)
    )
    plan = make_plan(job, indexes)
    stream = Stream(
        plan=plan,
        indexes=indexes,
        object_store=job.object_store,
        view_bytes_per_image=view_bytes_per_image(job.augment),
        reader_cpus_each=job.data.reader_cpus_each,
    )
    evaluation = _evaluation(run, job, indexes, log, shared)
    live = prepare_live(job, run.store, plan, shared) if job.data.live else None
    if run.read_json(PROVENANCE_FILE) is None:
        made_with = provenance(job, indexes, live.provenance if live else None)
        if evaluation is not None:
            measured = (*evaluation.bank.indexes, *evaluation.queries.indexes)
            made_with["evaluated_on"] = data_records(measured)
        inherited = run.read_json(INHERITED_FILE)
        run.write_json(
            PROVENANCE_FILE, made_with | ({"inherited_from": inherited} if inherited is not None else {})
        )
    return PreparedRun(job, run, stream, evaluation, live)


def make_plan(job: TrainingSpec, indexes: tuple[SourceIndex, ...]) -> Plan:
    """The job's plan over its indexed sources."""
    live = job.data.live
    plan = Plan(
        seed=job.seed,
        epochs=job.train.epochs,
        images_per_step_global=job.train.images_per_step_global,
        window_images=job.data.window_images,
        fragment_rows=tuple(index.fragment_rows for index in indexes),
        shares=job.data.shares,
        images_per_epoch=job.data.images_per_epoch,
        live=LivePool(live.pool_shards, live.generator.images_per_shard) if live else None,
    )
    if plan.steps_per_epoch == 0:
        fault = Fault(
            "train.images_per_step_global",
            f"{job.train.images_per_step_global}, but the sources hold {sum(plan.records)} images",
            "at most the images of an epoch",
            "lower it or add images",
        )
        raise SpecError([fault])
    return plan


def frozen_index(
    run: RunFolder,
    name: str,
    source: SourceSpec,
    options: ObjectStoreSpec,
    log: Callable[[str], None],
    shared: Store | None = None,
) -> SourceIndex:
    """The index the run was started with: files added later must not change the plan of a resumed run."""
    store, file = run.store.child(INDEX_FOLDER), f"{name}.index"
    if exists(store, file):
        return load_index(read_bytes(store, file))
    index = source_index(source, options, shared, log)
    keep_index(run.store, name, index)
    return index


def keep_index(run: Store, name: str, index: SourceIndex) -> None:
    """Leave an index in a run's folder, where `frozen_index` finds it; one that is there stays."""
    store, file = run.child(INDEX_FOLDER), f"{name}.index"
    if not exists(store, file):
        publish_bytes(store, file, save_index(index))


def _evaluation(
    run: RunFolder,
    job: TrainingSpec,
    train: tuple[SourceIndex, ...],
    log: Callable[[str], None],
    shared: Store | None,
) -> EvaluationSets | None:
    if job.data.eval is None or not isinstance(job, PretrainSpec):
        return None
    queries = _labelled(job, (frozen_index(run, "eval", job.data.eval, job.object_store, log, shared),))
    check_labelled(queries, "data.eval")
    if job.data.eval_bank is not None:
        index = frozen_index(run, "eval-bank", job.data.eval_bank, job.object_store, log, shared)
        bank = _labelled(job, (index,))
    else:
        bank = _labelled(job, tuple(index for index in train if index.source.origin == "real"))
    check_labelled(bank, "data.eval_bank" if job.data.eval_bank else "data.train (as the k-NN bank)")
    return EvaluationSets(bank, queries, shared)


def _labelled(job: PretrainSpec, indexes: tuple[SourceIndex, ...]) -> LabelledSet:
    return LabelledSet(
        indexes,
        job.object_store,
        job.augment.image_size,
        job.data.image_pixels_max,
        job.evaluate.images_per_batch,
    )
