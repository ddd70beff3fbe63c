"""The result table: one row for each sort of features, k-NN and linear top-1 percent."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from .run_files import ResultRow, Results

NOT_MEASURED = "not measured"


def result_table(results: dict[str, Any]) -> Table:
    """The rows of `results.json` for a terminal.

    Raises:
        pydantic.ValidationError: the mapping is no content of results.json.
    """
    rows = Results.model_validate(results).rows
    table = Table(title="Top-1 accuracy, percent")
    header, *lines = table_cells(rows)
    for position, name in enumerate(header):
        table.add_column(name, justify="right" if position else "left")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return table


def result_lines(results: dict[str, Any]) -> list[str]:
    """The same as plain text, columns aligned: for logs and pipes.

    Raises:
        pydantic.ValidationError: the mapping is no content of results.json.
    """
    cells = table_cells(Results.model_validate(results).rows)
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(
            cell.rjust(width) if position else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def table_cells(rows: list[ResultRow]) -> list[list[str]]:
    """Header and rows as text: features, k-NN at every k that was measured, linear probe."""
    ks = sorted({k for row in rows for k in row.knn_top1_percent})
    header = ["features", *(f"k-NN top-1 % (k={k})" for k in ks), "linear top-1 %"]
    lines = [
        [
            row.features,
            *(percent(row.knn_top1_percent.get(k)) for k in ks),
            percent(row.linear_top1_percent),
        ]
        for row in rows
    ]
    return [header, *lines]


def percent(value: float | None) -> str:
    """Two decimals; what was not measured says so."""
    return NOT_MEASURED if value is None else f"{value:.2f}"
