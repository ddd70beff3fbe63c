"""`syn2co run` of a search: all its trials on one cluster, then the leaderboard."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console

from ..search.compare import compare
from ..search.leaderboard import Entry, leaderboard, leaderboard_parquet, values_by_seed
from ..search.loop import Run, Search
from ..search.records import Record, Records
from ..search.trials import Trial, search_folder
from ..spec.errors import Fault, RunInterrupted, SpecError, TrainingError
from ..spec.identity import resolved_yaml, run_name, spec_hash
from ..spec.points import number_of_points
from ..spec.search import SearchSpec
from ..storage import Store, open_store, publish_bytes
from ..storage.run_layout import RESULTS_FILE, SPEC_FILE
from .cluster import connected
from .progress import duration
from .search_progress import SearchProgress
from .search_room import concurrent_trials, job_within_its_share
from .stop_signals import StopSignals

POLL_S = 0.5
LEADERBOARD_FILE, PAGE_FILE = "leaderboard.parquet", "search.html"


def run_search(search: SearchSpec, console: Console, *, debug: bool = False) -> dict[str, Any]:
    """Run what has not ended; the same search again goes on where it stopped.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; the trials that ran have published checkpoints.
        ResourceError: a trial, or as many as asked at once, have no room on the cluster.
        TrainingError: no trial came to an end.
    """
    store = search_store(search)
    with SearchProgress(console) as progress, StopSignals() as stop:
        progress.log(f"search {run_name(search)}: {_size(search)}")
        with connected(debug=debug) as cluster:
            stop.listen()
            concurrent = concurrent_trials(search, cluster.cpus, cluster.node_gpus)
            progress.log(f"{concurrent} at once on {cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs")
            publish_bytes(store, SPEC_FILE, resolved_yaml(search).encode())
            from .search_runs import TrialRun

            def start(trial: Trial) -> Run:
                job = job_within_its_share(trial.job, concurrent, cluster.cpus, cluster.node_gpus)
                return TrialRun(job, search.metric)

            loop = Search(search, Records(store), start, concurrent, time.monotonic(), progress.log)
            while loop.step(time.monotonic()):
                if stop.asked.is_set() and not loop.closing:
                    progress.log("stopping: trials publish a checkpoint first (once more to stop at once)")
                    loop.close("stopped")
                progress.show(loop)
                time.sleep(POLL_S)
        results = write_search_results(search, loop.known, loop.closing, loop.wall_s)
        for line in result_lines(search, results):
            progress.log(line)
    if loop.closing == "stopped":
        left = f"stopped with {len(loop.left)} of {loop.trials} trials left"
        raise RunInterrupted(store.uri, left, "", "run the same command to resume")
    if loop.closing:
        console.print(f"{loop.closing}: with more of it the same command goes on", soft_wrap=True)
    elif results["best"] is None:
        error = next((record.error for record in loop.known.values() if record.error), "")
        raise TrainingError(store.uri, f"no trial came to an end; the first failed with: {error}")
    return results


def search_store(search: SearchSpec) -> Store:
    """The search's folder."""
    return open_store(search_folder(search), search.training.object_store)


def write_search_results(
    search: SearchSpec, records: Mapping[int, Record], closing: str, wall_s: float
) -> dict[str, Any]:
    """Leaderboard (Parquet, HTML) and results.json, from what there is now; returns the latter's content."""
    from ..report.search_page import render_search_page

    store, entries = search_store(search), leaderboard(search, records.values())
    counts: Counter[str] = Counter(record.status for record in records.values())
    ended = sum(record.has_ended for record in records.values())
    finished = ended == number_of_points(search) * search.seeds
    best = entries[0] if entries and entries[0].seeds_finished else None
    results: dict[str, Any] = {
        "status": "finished" if finished else "interrupted" if closing else "not finished",
        "closed": closing,
        "search": run_name(search),
        "metric": search.metric,
        "trials": dict(counts),
        "wall_s": wall_s,
        "gpu_hours": sum(record.gpu_hours for record in records.values()),
        "best": asdict(best) if best else None,
        "page": store.child(PAGE_FILE).uri,
        "entries": [asdict(entry) for entry in entries],
    }
    publish_bytes(store, LEADERBOARD_FILE, leaderboard_parquet(entries))
    tiles = _tiles(search, best, counts, results)
    page = render_search_page(search.name, results["status"], search.metric, tiles, results["entries"])
    publish_bytes(store, PAGE_FILE, page.encode())
    publish_bytes(store, RESULTS_FILE, json.dumps(results, indent=1).encode())
    return results


def result_lines(search: SearchSpec, results: Mapping[str, Any]) -> Iterator[str]:
    """The leaderboard's first rows, what it took, where the page is."""
    from ..report.search_page import leaderboard_lines

    if results["entries"]:
        yield from leaderboard_lines(search.metric, results["entries"])
    yield f"{duration(results['wall_s'])}, {results['gpu_hours']:.3g} GPU-hours in all"
    yield f"leaderboard: {results['page']}"


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


def best_job(search: SearchSpec) -> Entry:
    """The best point that has a finished run.

    Raises:
        SpecError: there is none yet.
    """
    entries = leaderboard(search, Records(search_store(search)).load().values())
    if not entries or not entries[0].seeds_finished:
        fault = Fault(
            search_folder(search), "no finished trial", "one or more", "syn2co run the search first"
        )
        raise SpecError([fault])
    return entries[0]


def compare_lines(search: SearchSpec, point_a: int, point_b: int) -> Iterator[str]:
    """A paired bootstrap over the seeds of two points, in words.

    Raises:
        SpecError: a point has no finished run, or they share no seed.
    """
    records = Records(search_store(search)).load()
    values = [values_by_seed(records.values(), number) for number in (point_a, point_b)]
    try:
        found = compare(*values)
    except ValueError as error:
        fault = Fault(f"points {point_a} and {point_b}", str(error), "finished runs of the same seeds")
        raise SpecError([fault]) from None
    yield (
        f"{search.metric} over {len(found.seeds)} seeds: A (point {point_a}) {found.mean_a:.4g}, "
        f"B (point {point_b}) {found.mean_b:.4g}"
    )
    interval = f"95 % interval [{found.low:+.4g}, {found.high:+.4g}] (paired bootstrap)"
    yield f"B - A: {found.difference:+.4g}, {interval}"
    yield found.verdict


def rewritten(search: SearchSpec) -> str:
    """Write the leaderboard again; URI of its page."""
    records = Records(search_store(search))
    return write_search_results(search, records.load(), "", records.wall_s())["page"]


def _size(search: SearchSpec) -> str:
    points = number_of_points(search)
    seeds = f" with {search.seeds} seeds each" if search.seeds > 1 else ""
    return f"{points} points{seeds}, {search.searcher}, scheduler {search.scheduler.name}"


def _tiles(
    search: SearchSpec, best: Entry | None, counts: Mapping[str, int], results: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    tiles = [
        ("trials", str(sum(counts.values())), told),
        ("time", duration(results["wall_s"]), "all commands"),
    ]
    if best is not None and best.value is not None:
        tiles.insert(0, (f"best {search.metric}", f"{best.value:.4g}", f"point {best.point_number}"))
    if results["gpu_hours"]:
        tiles.append(("GPU-hours", f"{results['gpu_hours']:.3g}", ""))
    return tiles
