"""The leaderboard of a search as one self-contained HTML page, and its best lines as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2
from markupsafe import Markup

from .page import duration, figure, packaged_text
from .svg import Curve
from .table import aligned

NONE = "-"


def render_search_page(
    title: str,
    status: str,
    metric: str,
    tiles: Sequence[tuple[str, str, str]],
    entries: Sequence[Mapping[str, Any]],
    curves: Sequence[Curve] = (),
    now: datetime | None = None,
) -> str:
    """The page as HTML; every text is escaped, no script, no request.

    Args:
        title: name of the search.
        status: finished, or why it is not.
        metric: its name.
        tiles: label, figure, note of each headline.
        entries: the leaderboard, best first (fields as of `search.leaderboard.Entry`).
        curves: the figures; the first over the whole width.
        now: when the page is made; the present, in UTC, when left out.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    rows = [
        {
            "cells": [*_figures(entry), entry["point"]],
            "title": f"{entry['rank']}. point {entry['point_number']}: {entry['point']}",
            **{name: entry[name] for name in ("runs", "spec", "error", "status")},
        }
        for entry in entries
    ]
    return environment.from_string(packaged_text("search.html.j2")).render(
        style=Markup(packaged_text("style.css.j2")),
        title=title,
        status=status,
        written_at=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        tiles=tiles,
        curves=[
            {"title": curve.title, "caption": curve.caption, "svg": Markup(curve.svg) if curve.svg else None}
            for curve in curves
        ],
        header=[*_header(metric), "values"],
        rows=rows,
    )


def leaderboard_lines(metric: str, entries: Sequence[Mapping[str, Any]], most: int = 10) -> list[str]:
    """The first entries as plain text, columns aligned, the point's values last."""
    best = list(entries)[:most]
    lines = aligned([_header(metric), *(_figures(entry) for entry in best)])
    lines = [
        f"{line}  {values}"
        for line, values in zip(lines, ["values", *(e["point"] for e in best)], strict=True)
    ]
    left = len(entries) - len(best)
    return lines + ([f"and {left} more"] if left else [])


def _header(metric: str) -> list[str]:
    return ["rank", "point", metric, "± over seeds", "seeds", "status", "epochs", "time", "GPU-hours", "cost"]


def _figures(entry: Mapping[str, Any]) -> list[str]:
    return [
        str(entry["rank"]),
        str(entry["point_number"]),
        _number(entry["value"]),
        _number(entry["deviation"]),
        f"{entry['seeds_finished']} of {entry['seeds_started']}",
        entry["status"],
        str(entry["epochs"]),
        duration(entry["wall_s"]),
        figure(entry["gpu_hours"]) if entry["gpu_hours"] else "0",
        figure(entry["cost"]) if entry["cost"] is not None else NONE,
    ]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"
