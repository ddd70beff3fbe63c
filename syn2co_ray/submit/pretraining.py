"""The pre-training part of `syn2co run`: start the workers, show progress, write results and report."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..generate.weights import INDEX_FILE
from ..report.bound import StreamMeasured, bound_of
from ..spec.errors import TrainingError
from ..spec.job import TrainGeneratorSpec, TrainingSpec
from ..spec.probe import ProbeSpec
from ..storage import exists, open_store, publish_bytes
from ..storage.run_layout import RESULTS_FILE, VIEWS_FILE
from ..train.pretrain import pretrain_run
from ..train.worker_task import WorkerTask
from ..train.workers_run import WorkersRun
from .entry import generator_worker, pretrain_worker, probe_worker
from .live import LiveSource
from .prepare import PreparedRun
from .progress import Progress, duration, live_line
from .resources import room_for_workers, stream_resources
from .sheet import first_views
from .starts import told_starts
from .trackers import Trackers
from .watched import watched

LookOn = Callable[[WorkersRun, dict[str, Any]], None]
"""Called now and then with a run and what is seen of it."""


def train(
    prepared: PreparedRun,
    workers: int,
    progress: Progress,
    stop: threading.Event,
    marks: dict[str, float],
    look_on: LookOn | None = None,
    stop_after_epochs: int | None = None,
) -> dict[str, Any]:
    """Run the workers to their end, or to that of an epoch; results.json holds what is returned."""
    room = room_for_workers(prepared.job)
    with contextlib.ExitStack() as stack:
        trackers = stack.enter_context(Trackers(prepared.job, prepared.run, progress.log))
        live, stream = None, prepared.stream
        if prepared.live is not None:
            live = LiveSource(prepared.live, prepared.job, workers, prepared.plan, progress.log)
            stack.callback(live.stop)
            stream = live.joined_to(stream)
        run = pretrain_run(
            prepared.job,
            prepared.run,
            stream,
            room,
            _worker_of(prepared.job),
            prepared.evaluation,
            stop_after_epochs,
        )
        started = time.time()
        run.start()
        stack.callback(run.end)
        sheet = first_views(prepared)
        if sheet is not None:
            publish_bytes(prepared.run.store, VIEWS_FILE, sheet)

        def also(seen: dict[str, Any]) -> None:
            if live is not None:
                # Before its first step a resumed run is at no pass: the first that is read says where it is.
                if seen["progress"]:
                    live.trained(seen["progress"]["step"])
                seen["live"] = live.look()
            trackers.see(seen)
            if look_on is not None:
                look_on(run, seen)

        seen = watched(run, progress, stop, also)
        answer = run.result()
        for note in answer["outcome"]["notes"]:
            progress.log(note)
        marks.update(seen["marks"])
        results = _results(answer, time.time() - started, marks, told_starts(seen["starts"]))
        results["bound"] = _bound(prepared.job, answer["outcome"]["stream"])
        if live is not None:
            results["live"] = live.look()
            live.leave_picture(prepared.run.store)
        trackers.see(seen)
        trackers.finished(results)
    prepared.run.write_json(RESULTS_FILE, results)
    return results


def _worker_of(job: TrainingSpec) -> Callable[[WorkerTask], dict[str, Any]]:
    if isinstance(job, TrainGeneratorSpec):
        return generator_worker
    return probe_worker if isinstance(job, ProbeSpec) else pretrain_worker


def _results(
    answer: dict[str, Any], wall_s: float, marks: dict[str, float], starts: list[dict[str, Any]]
) -> dict[str, Any]:
    outcome = answer["outcome"]
    images_seen = outcome["images_seen"]
    return {
        "status": outcome["status"],
        "steps": outcome["step"],
        "rows": answer["results"] or [],
        "images_per_s": outcome["images_per_s"],
        "data_wait_share": outcome["data_wait_share"],
        "checkpoint_share": outcome["checkpoint_share"],
        "starts": starts,
        "device": answer["device"],
        "wall_s": wall_s,
        "startup_s": _startup(marks),
        "quarantined": {
            "count": outcome["quarantined_images"],
            "share": outcome["quarantined_images"] / images_seen if images_seen else 0.0,
        },
        "resumed_from_steps": outcome["resumed_from_steps"],
        "warnings": outcome["warnings"],
    }


def _bound(job: TrainingSpec, stream: dict[str, Any] | None) -> dict[str, Any] | None:
    """Which stage bounded the last start, for results.json; None where too little was measured."""
    if stream is None:
        return None
    import ray

    measured = StreamMeasured(**stream)
    verdict = bound_of(measured, stream_resources(job, measured, ray.cluster_resources().get("CPU", 0.0)))
    return None if verdict is None else {**asdict(verdict), "measured": stream}


def _startup(marks: dict[str, float]) -> dict[str, float]:
    """Seconds of each stage from the command until it trains, in the order they ended."""
    ordered = sorted(marks.items(), key=lambda mark: mark[1])
    stages = {name: at - ordered[i][1] for i, (name, at) in enumerate(ordered[1:])}
    return {**stages, "total": ordered[-1][1] - ordered[0][1]}


def _check_published(job: TrainGeneratorSpec) -> None:
    """`into` does not decide which run it is, so a finished run may be asked for another place."""
    store = open_store(job.into, job.object_store)
    if not exists(store, INDEX_FILE):
        raise TrainingError(
            store.uri,
            "holds no pipeline, though this run is finished",
            "the place that it was published to",
            "copy it from there; or change the job's name to train again",
        )


def present(prepared: PreparedRun, results: dict[str, Any], progress: Progress) -> dict[str, Any]:
    # matplotlib takes seconds to import; nothing needs it before the run has ended.
    from ..report.page import write_report
    from ..report.table import result_lines

    report = write_report(prepared.run.store)
    for line in result_lines(results) if results["rows"] else ():
        progress.log(line)
    progress.log(
        f"{results['images_per_s']:.0f} images/s, data wait {results['data_wait_share']:.1%}, "
        f"ready to train {results['startup_s']['total']:.0f} s after the command, "
        f"{duration(results['wall_s'])} in all"
    )
    if results.get("bound"):
        since = " since the last start" if results["resumed_from_steps"] else ""
        progress.log(f"what bounds it{since}: {results['bound']['text']}")
    if "live" in results:
        progress.log(live_line(results["live"]))
    if isinstance(prepared.job, TrainGeneratorSpec) and results["status"] == "finished":
        _check_published(prepared.job)
        progress.log(f"pipeline: {prepared.job.into}")
    progress.log(f"report: {report}")
    return {**results, "report": report}
