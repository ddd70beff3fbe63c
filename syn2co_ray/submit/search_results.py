"""What comes out of a search: leaderboard, page, results.json, its best job, comparisons."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ..search.compare import compare
from ..search.leaderboard import Entry, leaderboard, leaderboard_parquet, values_by_seed
from ..search.promotion import trials_left
from ..search.records import Record, Records
from ..search.trials import search_folder
from ..spec.errors import Fault, SpecError
from ..spec.identity import run_name
from ..spec.search import SearchSpec
from ..storage import Store, open_store, publish_bytes
from ..storage.run_layout import RESULTS_FILE
from .progress import duration

LEADERBOARD_FILE, PAGE_FILE = "leaderboard.parquet", "search.html"


def search_store(search: SearchSpec) -> Store:
    """The search's folder."""
    return open_store(search_folder(search), search.training.object_store)


def write_search_results(
    search: SearchSpec, records: Mapping[int, Record], closing: str, wall_s: float
) -> dict[str, Any]:
    """Leaderboard (Parquet, HTML) and results.json, from what there is now; returns the latter's content."""
    # matplotlib takes seconds to import.
    from ..report.search_page import render_search_page
    from .search_figures import search_curves

    store, entries = search_store(search), leaderboard(search, records.values())
    counts: Counter[str] = Counter(record.status for record in records.values())
    finished = not trials_left(search, records)
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
    curves = search_curves(search, records.values(), entries)
    page = render_search_page(
        search.name, results["status"], search.metric, tiles, results["entries"], curves
    )
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
