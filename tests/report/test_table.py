"""The result table, as text and for a terminal."""

from __future__ import annotations

import io

import pytest
from pydantic import ValidationError
from rich.console import Console

from syn2co_ray.report.table import result_lines, result_table

RESULTS = {
    "status": "finished",
    "rows": [
        {
            "features": "trained encoder",
            "knn_top1_percent": {"100": 81.0, "20": 93.06, "10": 94.17},
            "linear_top1_percent": 96.394,
        },
        {"features": "raw pixels", "knn_top1_percent": {"10": 97.2}, "linear_top1_percent": None},
    ],
}


def test_lines_are_aligned_and_ks_in_numeric_order():
    lines = result_lines(RESULTS)
    assert lines[0].split("  ")[0] == "features"
    assert [lines[0].index(f"(k={k})") for k in (10, 20, 100)] == sorted(
        lines[0].index(f"(k={k})") for k in (10, 20, 100)
    )
    assert lines[1].split() == ["trained", "encoder", "94.17", "93.06", "81.00", "96.39"]
    assert lines[2].split("  ")[0] == "raw pixels"
    assert len({len(line) for line in lines}) == 1


def test_what_was_not_measured_says_so():
    assert result_lines(RESULTS)[2].count("not measured") == 3


def test_no_rows_only_the_header_is_left():
    assert result_lines({"status": "interrupted"}) == ["features  linear top-1 %"]


def test_terminal_table_shows_the_same_figures_and_no_markup():
    results = {"status": "finished", "rows": [{**RESULTS["rows"][0], "features": "[red]trained[/red]"}]}
    output = io.StringIO()
    Console(file=output, width=200).print(result_table(results))
    for text in ("94.17", "93.06", "81.00", "96.39", "k-NN top-1 % (k=100)", "[red]trained[/red]"):
        assert text in output.getvalue()


def test_content_that_is_no_result_is_refused():
    with pytest.raises(ValidationError, match="status"):
        result_lines({"rows": []})
