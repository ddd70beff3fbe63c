"""The page of an evaluation: what was measured is there, what was not is absent, and no text is trusted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from syn2co_ray.report.evaluation_page import render_evaluation_page

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
RESULTS: dict[str, Any] = {
    "status": "finished",
    "rows": [
        {"features": "trained encoder", "knn_top1_percent": {"10": 66.25}, "linear_top1_percent": 87.4},
        {"features": "raw pixels", "knn_top1_percent": {"10": 99.0}, "linear_top1_percent": None},
    ],
    "weights": {"source": "step 5 of <run>", "digest": "ab" * 32, "notes": ["left out: fc.weight"]},
    "images": {"eval": 389, "eval_bank": 1408, "classes": 10},
    "warnings": ["3 of 389 images of data.eval also stand in <b>data.eval_bank</b>"],
    "device": "cpu",
    "wall_s": 12.5,
}


def test_the_page_shows_figures_warnings_weights_and_job_escaped():
    page = render_evaluation_page("digits", RESULTS, "name: <digits>", NOW)
    assert "<td>66.25</td>" in page
    assert "<td>not measured</td>" in page
    assert "3 of 389 images of data.eval also stand in &lt;b&gt;data.eval_bank" in page
    assert "step 5 of &lt;run&gt;" in page
    assert "name: &lt;digits&gt;" in page
    assert "left out: fc.weight" in page
    assert "2026-01-02 03:04 UTC" in page
    assert "default-src 'none'" in page
    assert "<script" not in page
    for heading in ("Few-shot", "Few labels", "Retrieval", "Robustness", "Statistics"):
        assert heading not in page


def test_protocols_that_were_asked_for_have_a_table_each():
    row = {
        **RESULTS["rows"][0],
        "few_shot": {"1": {"top1_percent": 26.9, "interval95_percent": 1.16}},
        "linear_augmented": {
            **{"top1_percent": 71.25, "learning_rate": 0.5, "images": 1408, "run": "linear-trained-12345678"},
            "heldout_top1_percent_by_rate": {"0.5": 70.75, "2": 69.5},
            "best_on_eval": {"top1_percent": 71.75, "learning_rate": 2.0},
        },
        "fine_tune": {"0.1": {"top1_percent": 83.5, "images": 141, "run": "fine-tune-0.1-trained-12345678"}},
        "label_shares": {"0.01": {"top1_percent": 14.65, "images": 10}},
        "retrieval": {"map_percent": 15.57, "queries": 389},
    }
    more = {
        "rows": [row],
        "robustness": {
            "by_corruption": {
                "contrast": {"1": {"knn_top1_percent": 40.5}, "5": {"knn_top1_percent": 10.25}}
            },
            "mean": {"knn_top1_percent": 25.38},
        },
        "statistics": {
            **{"rankme": 12.5, "lidar": 9.25, "alignment": 0.5, "uniformity": -2.5},
            **{"images": 389, "views": 4, "features": 96},
        },
        "warnings": [],
    }
    page = render_evaluation_page("digits", {**RESULTS, **more}, "", NOW)
    for cell in ("26.90 ± 1.16", "14.65", "15.57", "40.50", "10.25", "12.5", "9.25", "-2.5"):
        assert f"<td>{cell}</td>" in page
    for cell in ("71.25", "70.75", "69.50", "71.75", "83.50"):
        assert f"<td>{cell}</td>" in page
    assert "<h2>Linear probe with augmentation</h2>" in page
    assert "<th>best on eval</th>" in page
    assert "<th>10 % (141 images)</th>" in page
    assert "<th>1 % (10 images)</th>" in page
    assert "mean 25.38" in page
    assert "linear</h2>" not in page
    assert "Warnings" not in page
