"""Figures of detectors: tables and tiles of an evaluation's page, and lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .table import aligned, percent

KINDS = {"box": "boxes", "mask": "masks"}
FIGURES = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "ar100": "AR100",
}


def detection_lines(results: Mapping[str, Any]) -> list[str]:
    """One aligned table of text for boxes and one for masks; none where no detector was measured."""
    if "detection" not in results:
        return []
    rows = results["detection"]["rows"]
    return [line for kind in KINDS if kind in rows[0] for line in aligned(_by_network(rows, kind))]


def with_headlines(rows: list[dict[str, Any]], detection: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of results.json with each network's AP in its own: tables of many runs find it there."""
    by_name = {row["features"]: dict(row) for row in rows}
    for row in detection["rows"]:
        own = by_name.setdefault(row["features"], {"features": row["features"]})
        figures = {
            f"{kind}_{name}_percent": row[kind][name]
            for kind in KINDS
            if kind in row
            for name in ("ap", "ap50", "ap75")
        }
        own["detection"] = {name: value for name, value in figures.items() if value is not None}
    return list(by_name.values())


def detection_tables(results: Mapping[str, Any]) -> Iterator[tuple[str, str, list[list[str]]]]:
    """Title, caption and cells with their header: by network, then by category."""
    if "detection" not in results:
        return
    detection = results["detection"]
    rows = detection["rows"]
    network = "Mask R-CNN" if "mask" in rows[0] else "Faster R-CNN"
    about = f"{network} ({rows[0]['neck']}), {rows[0]['steps']:,} steps."
    for kind, words in KINDS.items():
        if kind not in rows[0]:
            continue
        caption = (
            f"{about} AP is the mean over IoU 0.5 to 0.95; small is below 32 x 32 pixels of the image, large "
            "above 96 x 96."
        )
        yield f"Detection, {words}", caption, _by_network(rows, kind)
        yield f"Detection, {words}, by category", "", _by_category(rows, kind, detection["categories"])


def detection_tiles(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Label, value and note: how much was searched for and learned from."""
    if "detection" not in results:
        return []
    images, boxes = results["detection"]["images"], results["detection"]["boxes"]
    labels = {"eval": "objects searched for", "train": "objects learned from"}
    return [
        (label, f"{boxes[part]:,}", f"in {images[part]:,} images of detection.{part}")
        for part, label in labels.items()
    ]


def _by_network(rows: list[dict[str, Any]], kind: str) -> list[list[str]]:
    header = ["detector on", *(f"{kind} {words} %" for words in FIGURES.values())]
    return [header, *([row["features"], *(percent(row[kind][name]) for name in FIGURES)] for row in rows)]


def _by_category(rows: list[dict[str, Any]], kind: str, categories: list[str]) -> list[list[str]]:
    header = ["category", *(f"{row['features']}, {words} %" for row in rows for words in ("AP", "AP50"))]
    cells = [header]
    for name in categories:
        found = [row[kind]["by_category"][name] for row in rows]
        cells.append([name, *(percent(one[key]) for one in found for key in ("ap", "ap50"))])
    return cells
