"""The page of a search."""

from __future__ import annotations

from datetime import UTC, datetime

from syn2co_ray.report.search_page import leaderboard_lines, render_search_page

ENTRY = {
    "rank": 1, "point_number": 3, "point": "method.backbone=<script>", "value": 81.234, "deviation": None,
    "seeds_finished": 1, "seeds_started": 2, "status": "failed", "epochs": 8, "wall_s": 90.0, "gpu_hours": 0.5,
    "cost": 1.25, "runs": ["a-1", "a-2"], "error": "out of <memory>", "spec": "kind: pretrain\n",
}  # fmt: skip


def test_texts_are_escaped_and_the_page_asks_for_nothing():
    now = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    page = render_search_page("look", "finished", "knn", [("trials", "2", "")], [ENTRY], now=now)
    assert "<script" not in page
    assert "method.backbone=&lt;script&gt;" in page
    assert "out of &lt;memory&gt;" in page
    assert "2026-01-02 03:04 UTC" in page
    assert "src=" not in page
    assert ".tile" in page  # the style is there as it is, not escaped


def test_lines_are_aligned_and_say_how_many_more_there_are():
    lines = leaderboard_lines("knn", [ENTRY, {**ENTRY, "rank": 2, "value": 1234.5}, ENTRY], most=2)
    assert lines[0].split() == ["rank", "point", "knn", "±", "over", "seeds", "seeds", "status", "epochs", "time",
                                "GPU-hours", "cost", "values"]  # fmt: skip
    assert "81.23" in lines[1]
    assert lines[1].index("method.") == lines[2].index("method.")
    assert lines[-1] == "and 1 more"
