"""What every training worker runs: the place where evaluation is handed to training.

The stream is started before torch and timm are imported, and this module imports neither: Ray's
controller loads it too.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from ..spec.job import PretrainSpec, TrainGeneratorSpec
from ..spec.probe import ProbeSpec
from ..storage import delete, exists, open_store, publish_bytes, publish_file
from ..storage.run_layout import SAMPLES_FILE
from ..train.checkpoint_files import newest_whole
from ..train.worker_stream import WorkerStream
from ..train.worker_task import WorkerTask
from .detection_workers import DetectionTask, training_name


def pretrain_worker(task: WorkerTask) -> dict[str, Any]:
    """Train, evaluate on the way and at the end; `task.extra` is `EvaluationSets` or None."""
    task.board.mark.remote("workers started", time.time())
    stream = WorkerStream(task)

    from ..evaluate.protocols import Evaluation
    from ..train.worker import run_worker

    task.board.mark.remote("networks imported", time.time())
    if task.extra is None:
        return run_worker(task, stream, None, None)
    assert isinstance(task.job, PretrainSpec)
    evaluation = Evaluation(task.job, task.extra.bank, task.extra.queries, task.extra.shared)

    def finish(loop: Any, outcome: Any, context: Any) -> Any:
        if outcome.status != "finished":
            return None
        return evaluation.after_training(loop.trainer.method, context)

    return run_worker(task, stream, evaluation.during_training, finish)


def probe_worker(task: WorkerTask) -> dict[str, Any]:
    """Learn labels; with `task.extra` (`EvaluationSets`) classify its queries at the end."""
    task.board.mark.remote("workers started", time.time())
    stream = WorkerStream(task)

    from ..evaluate.training_probes import begin_with_weights, classified
    from ..train.worker import run_worker

    job = task.job
    assert isinstance(job, ProbeSpec)
    task.board.mark.remote("networks imported", time.time())

    def finish(loop: Any, outcome: Any, context: Any) -> Any:
        if outcome.status != "finished" or task.extra is None:
            return None
        return classified(job, loop.trainer.method, task.extra.queries, context)

    return run_worker(task, stream, None, finish, lambda method: begin_with_weights(job, method))


def detection_worker(task: DetectionTask) -> dict[str, Any]:
    """Train a detector and look for objects with it; the answer is its figures, or the step it stopped at."""
    import ray
    import ray.train
    import ray.train.collective

    if ray.train.get_context().get_world_rank() == 0:
        first_step, _, _ = newest_whole(task.place, task.identity)
        ray.get(task.board.begin.remote(first_step))
    # No rank says where it runs before that.
    ray.train.collective.barrier()

    from ..evaluate.detection.measuring import measure_detector
    from ..evaluate.detection.ranks import Stopped
    from ..evaluate.detection.weights import detection_backbone
    from ..train.worker import run_rank

    job = task.job
    assert job.detection is not None
    spec = job.detection

    def work(context: Any, log: Any) -> dict[str, Any]:
        loaded = detection_backbone(job, is_random=task.is_random)
        sets = ray.get(task.boxed[0])
        try:
            measured = measure_detector(
                task.name, loaded.network, sets, spec, job.seed, context, task.place, task.identity
            )
        except Stopped:
            return {"stopped": True}
        return {} if measured is None else measured.as_json()

    name, timeout_s = training_name(job, task.name), spec.collective_timeout_s
    return run_rank(name, task.place, task.board, timeout_s, "detection.collective_timeout_s", work)


SAMPLES = 64


def generator_worker(task: WorkerTask) -> dict[str, Any]:
    """Train a diffusion model; at the end publish it, and a picture of what it makes."""
    task.board.mark.remote("workers started", time.time())
    stream = WorkerStream(task)

    from ..train.worker import run_worker

    task.board.mark.remote("networks imported", time.time())

    def finish(loop: Any, outcome: Any, context: Any) -> Any:
        if outcome.status == "finished" and context.rank == 0:
            _publish_generator(task, loop.trainer.method)
        return None

    return run_worker(task, stream, None, finish)


def _publish_generator(task: WorkerTask, method: Any) -> None:
    from ..generate.contact_sheet import contact_sheet_png
    from ..generate.weights import INDEX_FILE

    job = task.job
    assert isinstance(job, TrainGeneratorSpec)
    picture = contact_sheet_png({f"{job.name}, {SAMPLES} samples": list(method.samples(SAMPLES, job.seed))})
    publish_bytes(task.run.store, SAMPLES_FILE, picture)
    with tempfile.TemporaryDirectory() as folder:
        method.save(Path(folder))
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        whole = open_store(job.into, job.object_store)
        if exists(whole, INDEX_FILE):  # of an earlier generator: half of each is none
            delete(whole, INDEX_FILE)
        # The index last: a pipeline without it is none.
        for path in sorted(files, key=lambda path: path.name == INDEX_FILE):
            below = path.relative_to(folder).parent.as_posix()
            publish_file(whole if below == "." else whole.child(below), path.name, path)
