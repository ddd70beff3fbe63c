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

from ..spec.errors import RunInterrupted
from ..spec.identity import run_name
from ..spec.job import PretrainSpec
from ..storage.run_layout import RESULTS_FILE
from .cluster import connected
from .progress import Progress
from .resources import choose_workers


def run_job(job: PretrainSpec, console: Console, *, debug: bool = False) -> dict[str, Any]:
    """Prepare, train, evaluate, report; the same spec again continues where it stopped.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; a whole checkpoint was published first.
        Syn2coError: anything else that went wrong, with what to do.
    """
    marks = {"command": psutil.Process().create_time(), "started": time.time()}
    with Progress(console) as progress, _stop_signals() as stop:
        progress.log(f"run {run_name(job)}")
        # Ray itself first: two threads that import one package can see it half made.
        import ray  # noqa: F401

        preparing = _Background(lambda: _prepared(job, progress))
        with connected(debug=debug) as cluster:
            marks["ray started"] = time.time()
            workers = choose_workers(job, cluster.cpus, cluster.gpus).workers
            prepared = preparing.result()
            from .prepare import describe
            from .pretraining import present, train

            marks["data prepared"] = time.time()
            finished = prepared.run.read_json(RESULTS_FILE)
            if finished is not None and finished["status"] == "finished":
                progress.log("this run is finished; its results:")
                return present(prepared, finished, progress)
            sizes = describe(prepared)
            progress.log(
                f"{sum(sizes['images']):,} images, {sizes['steps_per_epoch']} steps an epoch, "
                f"{sizes['total_steps']} steps in all, {workers} workers"
            )
            results = train(prepared, workers, progress, stop, marks)
    if results["status"] == "interrupted":
        present(prepared, results, progress)
        raise RunInterrupted(
            prepared.run.store.uri,
            f"stopped after step {results['steps']} of {prepared.plan.total_steps}",
            "",
            "its checkpoint is whole: run the same command to resume",
        )
    return present(prepared, results, progress)


def _prepared(job: PretrainSpec, progress: Progress) -> Any:
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
