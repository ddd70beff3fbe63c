"""Embeddings as a self-contained HTML page with contact sheets: no script, no request, all text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
from markupsafe import Markup

from .page import duration, packaged_text


@dataclass(frozen=True)
class Tile:
    """One image: a data URI, or None where it cannot be read any more."""

    picture: str | None
    name: str
    note: str = ""


@dataclass(frozen=True)
class Strip:
    """Images beside one another, under a title."""

    title: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Sheet:
    """A contact sheet."""

    title: str
    caption: str
    strips: tuple[Strip, ...]


def render_embedding_page(
    title: str,
    results: Mapping[str, Any],
    sheets: Sequence[Sheet],
    spec_text: str,
    now: datetime | None = None,
) -> str:
    """The page of a job of kind embed.

    Args:
        title: name of the job.
        results: content of its results.json.
        sheets: contact sheets.
        spec_text: the resolved job.
        now: when the page is made; the present, in UTC, when left out.
    """
    weights = results["weights"]
    return _rendered(
        title=title,
        about=f"weights: {weights['source']} (digest {weights['digest'][:12]})",
        tiles=_tiles(results),
        sources=results["sources"],
        warnings=results["warnings"],
        sheets=sheets,
        spec_text=spec_text,
        now=now,
    )


def render_sheet_page(title: str, about: str, sheets: Sequence[Sheet], now: datetime | None = None) -> str:
    """A page of contact sheets alone: an answer to a question about embeddings."""
    return _rendered(
        title=title, about=about, tiles=[], sources=[], warnings=[], sheets=sheets, spec_text="", now=now
    )


def _rendered(now: datetime | None, **values: Any) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(packaged_text("embedding.html.j2")).render(
        style=Markup(packaged_text("style.css.j2")),
        written_at=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        **values,
    )


def _tiles(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    length = ", of length 1" if results["l2_normalised"] else ""
    tiles = [
        ("images", f"{results['images']:,}", f"in {results['shards']:,} shards"),
        ("unreadable", f"{results['unreadable']:,}", "left out, in quarantine.jsonl"),
        ("embedding", f"{results['features']:,}", f"numbers, {results['dtype']}{length}"),
    ]
    made = results["made"]
    if made is not None:
        note = f"{made['images']:,} images by {made['actors']} actors in {duration(made['wall_s'])}"
        tiles.append(("images/s", f"{made['images_per_s']:,.0f}", f"{note}, their start included"))
    found = results.get("near_duplicates")
    if found is not None:
        note = f"pairs in {found['groups']:,} groups, {found['similarity_min']:g} or more alike"
        more = "" if found["complete"] else "+"
        tiles.append(("near duplicates", f"{found['pairs']:,}{more}", note))
        tiles.append(("repeat another", f"{found['removable']:,}", "images, were one of each group kept"))
    return tiles
