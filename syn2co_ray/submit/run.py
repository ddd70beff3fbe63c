"""`syn2co run`: one job from its spec to its report."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import psutil
from rich.console import Console

from ..spec.embed import EmbedSpec
from ..spec.errors import RunInterrupted, Syn2coError
from ..spec.evaluation import EvaluateJobSpec
from ..spec.export import ExportSpec
from ..spec.generate import GenerateSpec
from ..spec.identity import run_name
from ..spec.job import JobSpec, PipelineJobSpec, TrainingSpec, steps_of
from ..spec.search import SearchSpec
from ..storage import RunLog
from ..storage.run_layout import RESULTS_FILE
from .cluster import connected
from .driver_log import driver_log
from .embed import run_embed
from .evaluate import run_evaluate
from .export import run_export
from .generate import run_generate
from .progress import Progress
from .resources import choose_workers
from .search import run_search
from .stop_signals import StopSignals


def run_jobs(jobs: Sequence[JobSpec], console: Console, *, debug: bool = False) -> None:
    """Run jobs of any kind one after the other on one cluster connection.

    Several end with one table of all trainings. A job that fails does not keep the others from running,
    except the later steps of its pipeline. The same jobs again: what is finished is only shown.

    Raises:
        RunInterrupted: a job was stopped; the ones after it are not started.
        Syn2coError: the first failure, after the other jobs have run.
    """
    failures: list[Syn2coError] = []
    results: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        if len(jobs) > 1 or isinstance(jobs[0], PipelineJobSpec):
            stack.enter_context(connected(debug=debug))
        begun_at: float | None = None
        for job in jobs:
            step: Any = job
            try:
                if isinstance(job, SearchSpec):
                    run_search(job, console, debug=debug)
                    continue
                for step in steps_of(job):
                    if isinstance(step, GenerateSpec):
                        run_generate(step, console, debug=debug)
                    elif isinstance(step, ExportSpec):
                        run_export(step, console)
                    elif isinstance(step, EvaluateJobSpec):
                        results[step.name] = run_evaluate(step, console, debug=debug)
                    elif isinstance(step, EmbedSpec):
                        run_embed(step, console, debug=debug)
                    else:
                        results[step.name] = run_job(step, console, debug=debug, begun_at=begun_at)
                    begun_at = time.time()
            except RunInterrupted:
                raise
            except Syn2coError as error:
                failures.append(error)
                if len(jobs) > 1:
                    words = f"error in {step.name}: {error}"
                    console.print(words, highlight=False, markup=False, soft_wrap=True)
    if sum(bool(content["rows"]) for content in results.values()) > 1:
        from ..report.table import joint_lines

        for line in joint_lines(results):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if failures:
        raise failures[0]


def run_job(
    job: TrainingSpec,
    console: Console,
    *,
    debug: bool = False,
    begun_at: float | None = None,
    look_on: Any = None,
) -> dict[str, Any]:
    """Prepare, train, evaluate, report; the same spec again continues where it stopped.

    Start-up is counted from `begun_at` (Unix seconds); from the start of this process when left out.
    `look_on` (see `pretraining.LookOn`) is for those who watch over the run.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; a whole checkpoint was published first.
        Syn2coError: anything else that went wrong, with what to do.
    """
    with driver_log(run_name(job)) as log:
        return _run_job(job, console, debug, begun_at, look_on, log)


def _run_job(
    job: TrainingSpec, console: Console, debug: bool, begun_at: float | None, look_on: Any, log: RunLog
) -> dict[str, Any]:
    marks = {"command": begun_at or psutil.Process().create_time(), "started": time.time()}
    with Progress(console) as progress, StopSignals() as stop:
        log.step = lambda: progress.step
        progress.log(f"run {run_name(job)}")
        # Ray itself first: two threads that import one package can see it half made.
        import ray  # noqa: F401

        preparing = _Background(lambda: _prepared(job, progress))
        with connected(debug=debug) as cluster:
            stop.listen()
            marks["ray started"] = time.time()
            workers = choose_workers(job, cluster.cpus, cluster.node_gpus).workers
            prepared = preparing.result()
            log.publish_into(prepared.run.store)
            from .pretraining import present, train

            marks["data prepared"] = time.time()
            finished = prepared.run.read_json(RESULTS_FILE)
            if finished is not None and finished["status"] == "finished":
                progress.log("this run is finished; its results:")
                return present(prepared, finished, progress)
            plan = prepared.plan
            progress.log(
                f"{sum(plan.records):,} images, {plan.steps_per_epoch} steps an epoch, "
                f"{plan.total_steps} steps in all, {workers} workers"
            )
            results = train(prepared, workers, progress, stop.asked, marks, look_on)
    if results["status"] == "interrupted":
        present(prepared, results, progress)
        raise RunInterrupted(
            prepared.run.store.uri,
            f"stopped after step {results['steps']} of {prepared.plan.total_steps}",
            "",
            "its checkpoint is whole: run the same command to resume",
        )
    return present(prepared, results, progress)


def _prepared(job: TrainingSpec, progress: Progress) -> Any:
    """Import what a run needs and prepare its data while Ray starts."""
    from . import pretraining  # noqa: F401
    from .prepare import prepare_run

    return prepare_run(job, progress.log)


class _Background:
    """A call that runs while something else does; its error comes out at `result`."""

    def __init__(self, call: Any) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Any) -> None:
        try:
            self._value = call()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value
