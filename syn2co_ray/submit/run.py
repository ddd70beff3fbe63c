"""`syn2co run`: one job from its spec to its report."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from rich.console import Console

from ..report.page import write_report
from ..report.table import result_lines
from ..spec.errors import RunInterrupted
from ..spec.identity import run_name
from ..spec.job import PretrainSpec
from ..storage import publish_bytes
from ..storage.run_layout import RESULTS_FILE, VIEWS_FILE
from ..train.loop import LoopOutcome, TrainLoop
from ..train.pretrain import PretrainRun
from .cluster import connected
from .prepare import PreparedRun, describe, prepare_run
from .progress import Progress, duration
from .resources import choose_workers
from .sheet import first_views

POLL_S = 0.25


def run_job(job: PretrainSpec, console: Console, *, debug: bool = False) -> dict[str, Any]:
    """Prepare, train, evaluate, report; the same spec again continues where it stopped.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; a whole checkpoint was published first.
        Syn2coError: anything else that went wrong, with what to do.
    """
    marks = {"command": psutil.Process().create_time(), "imports": time.time()}
    with Progress(console) as progress, _stop_signals() as stop:
        progress.log(f"run {run_name(job)}")
        preparing = _Background(lambda: prepare_run(job, progress.log))
        with connected(debug=debug) as cluster:
            marks["ray started"] = time.time()
            workers = choose_workers(job, cluster.cpus, cluster.gpus).workers
            prepared = preparing.result()
            marks["data prepared"] = time.time()
            finished = prepared.run.read_json(RESULTS_FILE)
            if finished is not None and finished["status"] == "finished":
                progress.log("this run is finished; its results:")
                return _present(prepared, finished, progress)
            sizes = describe(prepared)
            progress.log(
                f"{sum(sizes['images']):,} images, {sizes['steps_per_epoch']} steps an epoch, "
                f"{sizes['total_steps']} steps in all, {workers} workers"
            )
            results = _train(prepared, workers, progress, stop, marks)
    if results["status"] == "interrupted":
        _present(prepared, results, progress)
        raise RunInterrupted(
            prepared.run.store.uri,
            f"stopped after step {results['steps']} of {prepared.plan.total_steps}",
            "",
            "its checkpoint is whole: run the same command to resume",
        )
    return _present(prepared, results, progress)


def _train(
    prepared: PreparedRun, workers: int, progress: Progress, stop: threading.Event, marks: dict[str, float]
) -> dict[str, Any]:
    evaluation = prepared.evaluation
    run = PretrainRun(
        prepared.job,
        prepared.run,
        prepared.stream,
        workers,
        evaluate=evaluation.during_training if evaluation else None,
        finish=Finish(evaluation),
    )
    started = time.time()
    run.start()
    publish_bytes(prepared.run.store, VIEWS_FILE, first_views(prepared))
    asked = False
    while not run.wait(POLL_S):
        if stop.is_set() and not asked:
            progress.log("stopping: publishing a checkpoint first (once more to stop at once)")
            run.ask_to_stop()
            asked = True
        progress.show(run.look())
    seen = run.look()
    answer = run.result()
    progress.show(seen)
    for note in answer["outcome"]["notes"]:
        progress.log(note)
    marks.update(seen["marks"])
    results = _results(answer, time.time() - started, marks)
    prepared.run.write_json(RESULTS_FILE, results)
    return results


class Finish:
    """The last act of the workers: evaluate what was trained."""

    def __init__(self, evaluation: Any) -> None:
        self.evaluation = evaluation

    def __call__(self, loop: TrainLoop, outcome: LoopOutcome, context: Any) -> list[dict[str, Any]] | None:
        if self.evaluation is None or outcome.status != "finished":
            return None
        return self.evaluation.after_training(loop.trainer.method, context)


def _results(answer: dict[str, Any], wall_s: float, marks: dict[str, float]) -> dict[str, Any]:
    outcome = answer["outcome"]
    images_seen = outcome["images_seen"]
    return {
        "status": outcome["status"],
        "steps": outcome["step"],
        "rows": answer["results"] or [],
        "images_per_s": outcome["images_per_s"],
        "data_wait_share": outcome["data_wait_share"],
        "device": answer["device"],
        "wall_s": wall_s,
        "startup_s": _startup(marks),
        "quarantined": {
            "count": outcome["quarantined_images"],
            "share": outcome["quarantined_images"] / images_seen if images_seen else 0.0,
        },
        "resumed_from_steps": outcome["resumed_from_steps"],
    }


def _startup(marks: dict[str, float]) -> dict[str, float]:
    """Seconds of each stage from the command to the first batch, in the order they ended."""
    ordered = sorted(marks.items(), key=lambda mark: mark[1])
    stages = {name: at - ordered[i][1] for i, (name, at) in enumerate(ordered[1:])}
    return {**stages, "total": ordered[-1][1] - ordered[0][1]}


def _present(prepared: PreparedRun, results: dict[str, Any], progress: Progress) -> dict[str, Any]:
    report = write_report(prepared.run.store)
    for line in result_lines(results):
        progress.log(line)
    startup = results["startup_s"].get("total", 0.0)
    progress.log(
        f"{results['images_per_s']:.0f} images/s, data wait {results['data_wait_share']:.1%}, "
        f"first batch {startup:.0f} s after the command, {duration(results['wall_s'])} in all"
    )
    progress.log(f"report: {report}")
    return {**results, "report": report}


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


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event; a second one stops at once, as it would without us."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
