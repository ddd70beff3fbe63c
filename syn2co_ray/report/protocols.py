"""What the figures of a run are called in a table of many runs, and in which order they stand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .detection_tables import FIGURES, KINDS
from .run_files import ResultRow, Results

KNN, LINEAR = "k-NN", "linear"
LINEAR_AUGMENTED, BEST_ON_EVAL = "linear, augmented", "linear, augmented, best on eval"
SECTIONS = (
    "knn",
    "linear",
    "linear_augmented",
    "label_shares",
    "fine_tune",
    "few_shot",
    "retrieval",
    "landmarks",
    "video_segmentation",
    "detection",
    "robustness",
    "statistics",
)
"""Sections of `kind: evaluate`, as their columns follow each other; a training has the first two."""
SECTIONS_WITH_IMAGES = ("landmarks", "video_segmentation", "detection")
"""Those that look at images of their own and not at `data.eval`."""
_BY_NUMBER = ("knn", "label_shares", "fine_tune", "few_shot")
"""Sections with a column for each k, share or number of shots."""
_NAMES: dict[tuple[str, ...], str] = {
    ("linear_augmented", "top1_percent"): LINEAR_AUGMENTED,
    ("linear_augmented", "best_on_eval", "top1_percent"): BEST_ON_EVAL,
    ("fine_tune", "top1_percent"): "fine-tuned",
    ("retrieval", "map_percent"): "retrieval mAP",
    **{("landmarks", "map_percent", s): f"landmarks mAP, {s}" for s in ("easy", "medium", "hard")},
    ("video_segmentation", "jf_mean_percent"): "video J&F",
    ("video_segmentation", "j_mean_percent"): "video J",
    ("video_segmentation", "f_mean_percent"): "video F",
    **{
        ("detection", f"{kind}_{name}_percent"): f"{kind} {words}"
        for kind in KINDS
        for name, words in FIGURES.items()
    },
    ("robustness", "mean", "knn_top1_percent"): "corrupted, k-NN",
    ("robustness", "mean", "linear_top1_percent"): "corrupted, linear",
    ("statistics", "rankme"): "RankMe",
    ("statistics", "lidar"): "LiDAR",
    ("statistics", "alignment"): "alignment",
    ("statistics", "uniformity"): "uniformity",
}
"""Path of a number in results.json -> protocol; what is known and not here is not for a table."""


def figures_by_section(row: ResultRow) -> dict[str, dict[str, float]]:
    """Section of `kind: evaluate` -> protocol -> figure, of one sort of features.

    A section that this version does not know gives whatever it has in percent.
    """
    found: dict[str, dict[str, float]] = {}
    if row.knn_top1_percent:
        found["knn"] = {f"{KNN} k={k}": percent for k, percent in sorted(row.knn_top1_percent.items())}
    if row.linear_top1_percent is not None:
        found["linear"] = {LINEAR: row.linear_top1_percent}
    for section, value in (row.model_extra or {}).items():
        if figures := _figures(section, value):
            found[section] = figures
    return found


def figures_beside_rows(results: Results) -> dict[str, dict[str, float]]:
    """The same of sections that results.json holds beside its rows: they look at the weights alone."""
    extra = results.model_extra or {}
    found = {name: _figures(name, extra[name]) for name in ("robustness", "statistics") if name in extra}
    return {section: figures for section, figures in found.items() if figures}


def figures_of(row: ResultRow) -> dict[str, float]:
    """Protocol -> figure, of all sections."""
    return {name: value for figures in figures_by_section(row).values() for name, value in figures.items()}


def in_order(section_of: Mapping[str, str]) -> tuple[str, ...]:
    """Protocols by their sections' order, numbers rising inside a section; unknown sections last.

    Args:
        section_of: protocol -> its section.
    """

    def place(protocol: str) -> tuple[int, float]:
        section = section_of[protocol]
        number = re.search(r"\d+(\.\d+)?", protocol) if section in _BY_NUMBER else None
        rank = SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)
        return rank, float(number[0]) if number else 0.0

    return tuple(sorted(section_of, key=place))


def family(protocol: str) -> str:
    """What a published figure is compared with: all k of k-NN, all sorts of linear probe on all labels."""
    if protocol.startswith(f"{KNN} k="):
        return KNN
    return LINEAR if protocol in (LINEAR_AUGMENTED, BEST_ON_EVAL) else protocol


def fine_tuned(share: float) -> str:
    """The protocol of a backbone that learned on from a share of the labels, 0 to 1."""
    return f"fine-tuned, {100 * share:g} %"


def _figures(section: str, value: Any) -> dict[str, float]:
    named = ((_name(section, path), number) for path, number in _numbers((), value))
    return {name: number for name, number in named if name}


def _numbers(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers((*path, str(name)), inner)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield path, float(value)


def _name(section: str, path: tuple[str, ...]) -> str:
    """The protocol at a path below a section; empty where it is no figure for a table."""
    if named := _NAMES.get((section, *path)):
        return named
    if section not in SECTIONS:
        is_percent = bool(path) and path[-1].endswith("_percent") and "interval" not in path[-1]
        words = " ".join((section, *path)).removesuffix("_percent").removesuffix(" top1")
        return words.replace("_", " ") if is_percent else ""
    if len(path) == 2 and path[1] == "top1_percent" and _is_number(path[0]):
        if section == "few_shot":
            return f"{path[0]}-shot"
        if section == "label_shares":
            return f"linear, {100 * float(path[0]):g} % of labels"
        if section == "fine_tune":
            return fine_tuned(float(path[0]))
    return ""


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", text) is not None
