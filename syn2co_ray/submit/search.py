"""`syn2co run` of a search: all its trials on one cluster, then the leaderboard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from ..search.loop import Run, Search
from ..search.promotion import trials_left
from ..search.records import Records
from ..search.trials import Trial
from ..spec.errors import RunInterrupted, TrainingError
from ..spec.identity import resolved_yaml, run_name, spec_hash
from ..spec.points import number_of_points
from ..spec.search import SearchSpec
from ..storage import publish_bytes
from ..storage.run_layout import SPEC_FILE
from ..train.inheritance import hand_over
from .cluster import connected
from .search_progress import SearchProgress
from .search_results import result_lines, search_store, write_search_results
from .search_room import concurrent_trials, job_within_its_share
from .shared import forget_images
from .stop_signals import StopSignals

POLL_S = 0.5


def run_search(search: SearchSpec, console: Console, *, debug: bool = False) -> dict[str, Any]:
    """Run what has not ended; the same search again goes on where it stopped.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; the trials that ran have published checkpoints.
        ResourceError: a trial, or as many as asked at once, have no room on the cluster.
        TrainingError: no trial came to an end.
    """
    store = search_store(search)
    records = Records(store)
    with SearchProgress(console) as progress, StopSignals() as stop:
        progress.log(f"search {run_name(search)}: {_size(search)}")
        known = records.load()
        if not trials_left(search, known):
            progress.log("this search is finished; its results:")
            results = write_search_results(search, known, "", records.wall_s())
            return _told(search, results, progress)
        with connected(debug=debug) as cluster:
            stop.listen()
            concurrent = concurrent_trials(search, cluster.cpus, cluster.node_gpus)
            progress.log(f"{concurrent} at once on {cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs")
            publish_bytes(store, SPEC_FILE, resolved_yaml(search).encode())
            from .search_runs import TrialRun

            def start(trial: Trial) -> Run:
                job = job_within_its_share(trial.job, concurrent, cluster.cpus, cluster.node_gpus)
                return TrialRun(job, search, trial.stop_after_epochs)

            loop = Search(search, records, start, concurrent, time.time(), progress.log, hand_over)
            while loop.step(time.time()):
                if stop.asked.is_set() and not loop.closing:
                    progress.log("stopping: trials publish a checkpoint first (once more to stop at once)")
                    loop.close("stopped")
                progress.show(loop)
                time.sleep(POLL_S)
        results = write_search_results(search, loop.known, loop.closing, loop.wall_s)
        if results["status"] == "finished":
            forget_images(store)
        _told(search, results, progress)
    if loop.closing == "stopped":
        left = f"stopped with {len(loop.left)} of {loop.trials} trials left"
        raise RunInterrupted(store.uri, left, "", "run the same command to resume")
    if loop.closing:
        console.print(f"{loop.closing}: with more of it the same command goes on", soft_wrap=True)
    elif results["best"] is None:
        error = next((record.error for record in loop.known.values() if record.error), "")
        raise TrainingError(store.uri, f"no trial came to an end; the first failed with: {error}")
    return results


def _told(search: SearchSpec, results: dict[str, Any], progress: SearchProgress) -> dict[str, Any]:
    for line in result_lines(search, results):
        progress.log(line)
    return results


def search_plan_lines(search: SearchSpec, *, debug: bool = False) -> Iterator[str]:
    """What a search would do; refuses what cannot be scheduled.

    Raises:
        ResourceError: as of `run_search`.
    """
    yield f"search {run_name(search)} (spec {spec_hash(search)}): {_size(search)}"
    yield ""
    yield resolved_yaml(search).rstrip()
    yield ""
    with connected(debug=debug) as cluster:
        pass
    concurrent = concurrent_trials(search, cluster.cpus, cluster.node_gpus)
    job = job_within_its_share(search.training, concurrent, cluster.cpus, cluster.node_gpus)
    yield (
        f"cluster: {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs: {concurrent} trials at once, "
        f"up to {job.train.workers.max} workers each"
    )


def _size(search: SearchSpec) -> str:
    points = number_of_points(search)
    seeds = f" with {search.seeds} seeds each" if search.seeds > 1 else ""
    by = f", by {' and '.join(search.metrics)}" if search.metrics else ""
    return f"{points} points{seeds}, {search.searcher}, scheduler {search.scheduler.name}{by}"
