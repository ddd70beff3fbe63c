"""The page of embeddings: figures, sheets, escaped text, nothing fetched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from syn2co_ray.report.embedding_page import Sheet, Strip, Tile, render_embedding_page, render_sheet_page

NOW = datetime(2025, 1, 2, 3, 4, tzinfo=UTC)
PICTURE = "data:image/jpeg;base64,AAAA"
RESULTS: dict[str, Any] = {
    "images": 1797,
    "unreadable": 2,
    "features": 384,
    "dtype": "float16",
    "l2_normalised": True,
    "shards": 8,
    "sources": [{"uri": "s3://b/<x>", "images": 1797, "unreadable": 2}],
    "weights": {"source": "step 3 of runs/a", "digest": "0123456789abcdef"},
    "made": {"images": 900, "wall_s": 90.0, "images_per_s": 10.0, "actors": 2},
    "near_duplicates": {
        "similarity_min": 0.98,
        "pairs": 12,
        "groups": 5,
        "removable": 7,
        "complete": False,
    },
    "warnings": ["2 images cannot be decoded"],
}
SHEET = Sheet("Pairs", "two of them", (Strip("0.99", (Tile(PICTURE, "a<b"), Tile(None, "gone", "note"))),))


def test_figures_sheets_and_escapes() -> None:
    page = render_embedding_page("<job>", RESULTS, [SHEET], "kind: embed", NOW)
    for text in (
        "&lt;job&gt;",
        "1,797",
        "12+",
        "numbers, float16, of length 1",
        "900 images by 2 actors in 1 min 30 s",
        "s3://b/&lt;x&gt;",
        "a&lt;b",
        "not there now",
        "2025-01-02 03:04 UTC",
    ):
        assert text in page, text
    assert page.count(PICTURE) == 1
    assert "http://" not in page
    assert "<script" not in page


def test_a_sheet_stands_alone() -> None:
    page = render_sheet_page("Neighbours of x", "s3://b/y", [SHEET], NOW)
    assert "<h2>Pairs</h2>" in page
    assert "<h2>Job</h2>" not in page
