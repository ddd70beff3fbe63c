"""The result table, as text and for a terminal."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from syn2co_ray.report.table import joint_lines, result_lines

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


def test_training_probes_have_columns_of_their_own():
    trained = {
        **RESULTS["rows"][0],
        "linear_augmented": {"top1_percent": 71.25, "best_on_eval": {"top1_percent": 99.0}},
        "fine_tune": {"0.1": {"top1_percent": 83.5}, "1": {"top1_percent": 90.0}},
    }
    header, line, pixels = result_lines({"status": "finished", "rows": [trained, RESULTS["rows"][1]]})
    assert header.endswith(
        "linear top-1 %  linear, augmented top-1 %  fine-tuned, 10 % top-1 %  fine-tuned, 100 % top-1 %"
    )
    assert line.split()[-3:] == ["71.25", "83.50", "90.00"]
    assert pixels.count("not measured") == 6


def test_no_rows_only_the_header_is_left():
    assert result_lines({"status": "interrupted"}) == ["features  linear top-1 %"]


def test_several_runs_share_one_table_and_baselines_are_shown_once():
    moby = {"status": "finished", "rows": [{"features": "trained encoder", "knn_top1_percent": {"10": 61.5}}]}
    header, *lines = joint_lines({"synby": RESULTS, "moby": moby})
    assert header.split("  ")[0] == "features"
    assert [line.split("  ")[0] for line in lines] == ["raw pixels (of synby)", "synby", "moby"]
    assert lines[1].split()[1:] == ["94.17", "93.06", "81.00", "96.39"]
    assert lines[2].split()[1] == "61.50"


def test_content_that_is_no_result_is_refused():
    with pytest.raises(ValidationError, match="status"):
        result_lines({"rows": []})
