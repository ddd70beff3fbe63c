"""One self-contained HTML page for a run: no script, no network, readable in ten years.

Keys, reasons and URIs come from data that others wrote, so every text is escaped, and the page forbids
itself scripts and requests by its content security policy.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from statistics import median
from typing import Any

import jinja2
from markupsafe import Markup

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.storage import Store, publish_bytes
from syn2co_ray.storage.run_layout import REPORT_FILE

from .plots import run_curves
from .run_files import (
    QUARANTINE_FILE,
    RESULTS_FILE,
    VIEWS_FILE,
    RunFiles,
    load_run_files,
)
from .table import TRAINED, percent, table_cells

QUARANTINE_ROWS_MAX = 50
_RECENT_STEPS = 200
_NOT_FINISHED, _UNKNOWN = "not finished", "unknown"
_OPTIONAL_FILES = (QUARANTINE_FILE, VIEWS_FILE)


@dataclass(frozen=True)
class Tile:
    """A headline figure."""

    label: str
    value: str
    note: str = ""


def write_report(store: Store) -> str:
    """Writes report.html into a run folder, from what the folder holds now.

    Args:
        store: the run folder; the run may be under way, interrupted or finished.

    Returns:
        URI of the page.

    Raises:
        StorageError: the folder cannot be read or written, or there is no run in it.
    """
    run = load_run_files(store)
    if run.spec_text is None and run.provenance is None and run.results is None and not run.steps:
        raise StorageError(
            store.uri, "no run in this folder", "a folder with spec.yaml", "name the folder of one run"
        )
    title = str(run.spec.get("name") or store.uri.rstrip("/").rsplit("/", 1)[-1])
    publish_bytes(store, REPORT_FILE, render_page(run, title).encode())
    return store.child(REPORT_FILE).uri


def render_page(run: RunFiles, title: str, now: datetime | None = None) -> str:
    """The page as HTML.

    Args:
        run: what the run folder holds.
        title: name of the run.
        now: when the page is made; the present, in UTC, when left out.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, duration=duration, figure=figure)
    results = run.results
    return environment.from_string(packaged_text("page.html.j2")).render(
        style=Markup(packaged_text("style.css.j2")),
        run=run,
        title=title,
        results=results,
        status=_status(run),
        written_at=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        tiles=_tiles(run),
        table=table_cells(results.rows) if results and results.rows else None,
        curves=[
            {"title": curve.title, "caption": curve.caption, "svg": Markup(curve.svg) if curve.svg else None}
            for curve in run_curves(run.steps, run.evals, results.rows if results else ())
        ],
        views=_embedded(run.views_png),
        samples=_embedded(run.samples_png),
        quarantine=run.quarantine[:QUARANTINE_ROWS_MAX],
        missing=[name for name in run.missing if name not in _OPTIONAL_FILES],
        results_file=RESULTS_FILE,
        last_step=run.steps[-1] if run.steps else None,
    )


def packaged_text(name: str) -> str:
    """A file of this package."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _embedded(png: bytes | None) -> str | None:
    return base64.b64encode(png).decode() if png else None


def _status(run: RunFiles) -> str:
    if run.results is not None:
        return run.results.status
    return _NOT_FINISHED if RESULTS_FILE in run.missing else _UNKNOWN


def _tiles(run: RunFiles) -> list[Tile]:
    results = run.results
    tiles = _accuracy_tiles(run)
    if results is None:
        tiles += _recent_speed_tiles(run)
    else:
        tiles += [
            Tile("images / s", figure(results.images_per_s), "whole run"),
            Tile("waiting for data", _share(results.data_wait_share), "of the step time"),
            Tile("wall time", duration(results.wall_s)),
        ]
    steps = results.steps if results and results.steps is not None else None
    if steps is None and run.steps:
        steps = run.steps[-1].step + 1
    epochs = results.epochs if results and results.epochs is not None else None
    if steps is not None:
        tiles.append(Tile("steps", figure(steps), f"{figure(epochs)} epochs" if epochs is not None else ""))
    return tiles


def _accuracy_tiles(run: RunFiles) -> list[Tile]:
    """The trained encoder's row; while a run is under way, its latest measurement."""
    k = _headline_k(run)
    rows = run.results.rows if run.results else []
    trained = next((row for row in rows if row.features.startswith(TRAINED)), None)
    if trained is not None:
        knn = percent(trained.knn_top1_percent.get(k)) if k is not None else percent(None)
        return [
            Tile("k-NN top-1 %", knn, f"k = {k}" if k is not None else ""),
            Tile("linear top-1 %", percent(trained.linear_top1_percent)),
        ]
    if run.evals and k is not None:
        latest = run.evals[-1]
        return [Tile("k-NN top-1 %", percent(latest.knn.get(k)), f"k = {k}, after {latest.step:,} steps")]
    return []


def _recent_speed_tiles(run: RunFiles) -> list[Tile]:
    recent = run.steps[-_RECENT_STEPS:]
    speeds = [step.images_per_s for step in recent if step.images_per_s is not None]
    shares = [step.data_wait_share for step in recent if step.data_wait_share is not None]
    note = f"median of the last {len(recent)} steps"
    tiles = [Tile("images / s", figure(median(speeds)), note)] if speeds else []
    return tiles + ([Tile("waiting for data", _share(median(shares)), note)] if shares else [])


def _headline_k(run: RunFiles) -> int | None:
    """The spec's first k where it was measured, else the smallest that was."""
    measured = {k for row in (run.results.rows if run.results else []) for k in row.knn_top1_percent}
    measured |= {k for record in run.evals for k in record.knn}
    try:
        first = int(run.spec["evaluate"]["knn"]["neighbours"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        first = None
    return first if first in measured else min(measured, default=None)


def _share(value: float | None) -> str:
    return "not recorded" if value is None else f"{100 * value:.1f} %"


def figure(value: Any) -> str:
    """A number for people: thousands apart, three to four digits that count."""
    if value is None:
        return "not recorded"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return str(value)
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 0.42 s, 7.5 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return "not recorded"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
