"""Several runs on one self-contained HTML page: table, curves together, what differs, first views."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2
from markupsafe import Markup

from .comparison_plots import Line, colour_of, comparison_curves
from .page import packaged_text
from .results_formats import cells, columns_of_words, notes
from .results_table import ResultsTable, results_table
from .run_folders import LoadedRun
from .svg import COLOURS

RUNS_DRAWN_MAX = len(COLOURS)
"""More lines than colours cannot be told apart."""
_ABSENT = "-"


def render_comparison_page(
    runs: Sequence[LoadedRun], title: str, baselines: bool = False, now: datetime | None = None
) -> str:
    """The page as HTML; every text is escaped, no script, no request.

    Args:
        runs: run folders that were read; all are in the table or named below it, the first RUNS_DRAWN_MAX
            with steps are drawn.
        title: of the page.
        baselines: rows also for the features that a run compares its encoder with.
        now: when the page is made; the present, in UTC, when left out.
    """
    table = results_table(runs, baselines)
    with_steps = [run for run in runs if run.files.steps or run.files.evals]
    drawn = [
        Line(name, run.files)
        for name, run in zip(_names(with_steps), with_steps[:RUNS_DRAWN_MAX], strict=False)
    ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(packaged_text("comparison.html.j2")).render(
        style=Markup(packaged_text("style.css.j2")),
        title=title,
        written_at=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        tiles=_tiles(runs, table),
        table=cells(table) if table.rows else None,
        left_columns=columns_of_words(table),
        notes=notes(table),
        lines=[(line.name, _swatch(number)) for number, line in enumerate(drawn)],
        not_drawn=len(with_steps) - len(drawn),
        curves=[
            {"title": curve.title, "caption": curve.caption, "svg": Markup(curve.svg) if curve.svg else None}
            for curve in comparison_curves(drawn)
        ],
        differences=differences([line.files.spec for line in drawn]),
        views=[
            (line.name, base64.b64encode(line.files.views_png).decode())
            for line in drawn
            if line.files.views_png
        ],
    )


def differences(specs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Dotted keys at which the specs are not the same, with each one's value as text."""
    flat = [dict(_flattened(spec, "")) for spec in specs]
    keys = dict.fromkeys(key for each in flat for key in each)
    found = ((key, [each.get(key, _ABSENT) for each in flat]) for key in keys)
    return [(key, values) for key, values in found if len(set(values)) > 1]


def _flattened(value: Any, key: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [
            pair for name, inner in value.items() for pair in _flattened(inner, f"{key}.{name}".strip("."))
        ]
    return [(key, value if isinstance(value, str) else json.dumps(value, default=str))]


def _names(runs: Sequence[LoadedRun]) -> list[str]:
    """Their jobs' names; where two have the same, those with the seed, else the folders'."""
    plain = [str(run.files.spec.get("name") or _folder(run)) for run in runs]
    if len(set(plain)) == len(plain):
        return plain
    seeded = [f"{name}, seed {run.files.spec.get('seed')}" for name, run in zip(plain, runs, strict=True)]
    return seeded if len(set(seeded)) == len(seeded) else [_folder(run) for run in runs]


def _swatch(number: int) -> str:
    """A run's colour as the figures have it, whose first one is another in the dark."""
    return f"var(--blue, {colour_of(0)})" if colour_of(number) == COLOURS[0] else colour_of(number)


def _folder(run: LoadedRun) -> str:
    return run.uri.rstrip("/").rsplit("/", 1)[-1]


def _tiles(runs: Sequence[LoadedRun], table: ResultsTable) -> list[tuple[str, str, str]]:
    finished = len({uri for row in table.rows for uri in row.runs})
    tiles = [("runs", str(len(runs)), f"{finished} in the table, {len(table.left_out)} not")]
    for protocol in table.protocols:
        if protocol == "linear" or protocol == table.protocols[0]:
            best = max(
                (row for row in table.rows if protocol in row.figures), key=lambda r: r.figures[protocol].mean
            )
            tiles.append((f"best {protocol}", f"{best.figures[protocol].mean:.2f}", best.name))
    return tiles
