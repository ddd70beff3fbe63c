"""Tables of video object segmentation for the page of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .table import percent

HEADER = ["J&F mean %", "J mean %", "J recall %", "J decay %", "F mean %", "F recall %", "F decay %"]
KEYS = [
    *("jf_mean_percent", "j_mean_percent", "j_recall_percent", "j_decay_percent"),
    *("f_mean_percent", "f_recall_percent", "f_decay_percent"),
]


def video_tables(results: Mapping[str, Any]) -> Iterator[tuple[str, str, list[list[str]]]]:
    """Title, caption and cells of each table: over all objects, and by sequence. None where not measured."""
    if "video_segmentation" not in results:
        return
    about = results["video_segmentation"]
    caption = (
        f"DAVIS: J is intersection over union, F the accuracy of boundaries; {about['objects']:,} objects, "
        f"{about['frames_measured']:,} frames; tokens: {about['tokens']}."
    )
    cells = [["features", *HEADER]]
    cells += [[name, *(percent(row[key]) for key in KEYS)] for name, row in about["rows"].items()]
    yield "Video object segmentation", caption, cells
    networks = list(about["sequences"])
    cells = [["sequence", "objects", *(f"{name}, J&F %" for name in networks)]]
    for sequence, first in about["sequences"][networks[0]].items():
        found = [about["sequences"][name][sequence]["jf_mean_percent"] for name in networks]
        cells.append([sequence, f"{first['objects']:,}", *(percent(value) for value in found)])
    yield "Video object segmentation, by sequence", "Means over the objects of each sequence.", cells
