"""The result table: one row for each sort of features, k-NN and linear top-1 percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .run_files import ResultRow, Results

NOT_MEASURED = "not measured"
TRAINED = "trained"
"""How the name of a trained encoder's row begins."""


def result_lines(results: dict[str, Any]) -> list[str]:
    """The rows of `results.json` as plain text, columns aligned.

    Raises:
        pydantic.ValidationError: the mapping is no content of results.json.
    """
    return aligned(table_cells(Results.model_validate(results).rows))


def joint_lines(results: Mapping[str, dict[str, Any]]) -> list[str]:
    """One table of several runs, as plain text.

    Each run gives the row of its trained encoder, under its name; the first run that has baselines gives
    those (runs of one table share encoder and data, or their baselines mean nothing to each other).

    Args:
        results: name of a run -> content of its results.json.

    Raises:
        pydantic.ValidationError: a mapping is no content of results.json.
    """
    trained: list[ResultRow] = []
    baselines: list[ResultRow] = []
    for name, content in results.items():
        rows = Results.model_validate(content).rows
        own = [row for row in rows if row.features.startswith(TRAINED)]
        trained += [row.model_copy(update={"features": name}) for row in own]
        if not baselines:
            baselines = [
                row.model_copy(update={"features": f"{row.features} (of {name})"})
                for row in rows
                if row not in own
            ]
    return aligned(table_cells([*baselines, *trained]))


def aligned(cells: list[list[str]], left: int = 1) -> list[str]:
    """Rows of equal length as lines: the first `left` columns to the left, the others to the right."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(
            cell.rjust(width) if position >= left else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def table_cells(rows: list[ResultRow]) -> list[list[str]]:
    """Header and rows as text: features, k-NN at every k that was measured, linear probe; training probes."""
    ks = sorted({k for row in rows for k in row.knn_top1_percent})
    trained = list(dict.fromkeys(name for row in rows for name in training_probes(row)))
    header = [
        "features",
        *(f"k-NN top-1 % (k={k})" for k in ks),
        "linear top-1 %",
        *(f"{name} top-1 %" for name in trained),
    ]
    lines = [
        [
            row.features,
            *(percent(row.knn_top1_percent.get(k)) for k in ks),
            percent(row.linear_top1_percent),
            *(percent(training_probes(row).get(name)) for name in trained),
        ]
        for row in rows
    ]
    return [header, *lines]


def training_probes(row: ResultRow) -> dict[str, float]:
    """Name of a probe that trains -> top-1 percent."""
    extra = row.model_extra or {}
    found: dict[str, float] = {}
    if "linear_augmented" in extra:
        found["linear, augmented"] = extra["linear_augmented"]["top1_percent"]
    for share, figures in extra.get("fine_tune", {}).items():
        # A probe's own run has one figure, an evaluation one a share.
        if isinstance(figures, Mapping):
            found[f"fine-tuned, {100 * float(share):g} %"] = figures["top1_percent"]
    return found


def percent(value: float | None) -> str:
    """Two decimals; what was not measured says so."""
    return NOT_MEASURED if value is None else f"{value:.2f}"
