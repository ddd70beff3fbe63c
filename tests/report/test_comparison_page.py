"""The page of several runs: self-contained, escaped, and whole also of runs that are not."""

from __future__ import annotations

import re
from pathlib import Path

from syn2co_ray.report.comparison_page import differences, render_comparison_page
from syn2co_ray.report.run_files import RunFiles
from syn2co_ray.report.run_folders import LoadedRun, load_runs
from syn2co_ray.spec.source import ObjectStoreSpec

from .conftest import SPEC, RunFolder


def figure_of(page: str, title: str) -> str:
    """A figure of the page, from its heading to its end."""
    start = page.index(f"<h3>{title}</h3>")
    return page[start : page.index("</figure>", start)]


def test_runs_are_drawn_together_and_what_differs_is_listed(tmp_path: Path) -> None:
    for seed, name in enumerate(("first", "second")):
        run = RunFolder(tmp_path / name)
        run.write_finished()
        run.write("spec.yaml", SPEC.replace("digits-synby", name).replace("seed: 0", f"seed: {seed}"))
    RunFolder(tmp_path / "third").write(
        "spec.yaml", SPEC.replace("digits-synby", "<script>alert(1)</script>")
    )
    page = render_comparison_page(load_runs([str(tmp_path)], ObjectStoreSpec()), "runs <b>")
    assert "<script" not in page
    assert "runs &lt;b&gt;" in page
    assert "no results.json: under way" in page
    assert page.count("data:image/png;base64,") == 2
    loss = figure_of(page, "Loss of all")
    assert re.search(r">\s*first\s*<", loss)
    assert re.search(r">\s*second\s*<", loss)
    # The telemetry of the negatives, of both runs: see `conftest.step_record` for what they recorded.
    for title in ("Hardness of negatives", "Weight of negatives"):
        panels = figure_of(page, title)
        assert all(re.search(rf">\s*{text}\s*<", panels) for text in ("interpolated", "noise", "queue"))
        assert all(re.search(rf">\s*{name}\s*<", panels) for name in ("first", "second"))
    assert "not recorded" in figure_of(page, "Pull of negatives")
    assert "<code>seed</code>" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "default-src 'none'" in page


def test_a_page_of_runs_that_hold_nothing_names_them() -> None:
    broken = [
        LoadedRun("s3://bucket/broken", RunFiles(), "no access"),
        LoadedRun("s3://bucket/empty", RunFiles()),
    ]
    page = render_comparison_page(broken, "nothing")
    assert "s3://bucket/broken: cannot be read: no access" in page
    assert "s3://bucket/empty: no spec.yaml" in page
    assert "No finished run with results" in page


def test_differences_name_keys_with_each_value() -> None:
    specs = [{"seed": 1, "a": {"b": [1, 2], "c": "x"}}, {"seed": 1, "a": {"b": [1, 3]}}]
    assert differences(specs) == [("a.b", ["[1, 2]", "[1, 3]"]), ("a.c", ["x", "-"])]
