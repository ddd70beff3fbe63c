"""Telemetry of several runs: a panel a sort of negative, a line a run, from what a training really records."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest

from syn2co_ray.report.comparison_plots import TELEMETRY, Line, colour_of, comparison_curves
from syn2co_ray.report.run_files import RunFiles, StepRecord, load_run_files
from syn2co_ray.report.svg import Curve
from syn2co_ray.spec.negatives import NEGATIVE_KINDS

from ..train.local_run import local_loop, prepared

SVG = "{http://www.w3.org/2000/svg}"


def run_of(name: str, *kinds: str, suffixes: Sequence[str] = tuple(TELEMETRY)) -> Line:
    """A run that looked at these sorts of negatives in every second step."""
    stats = {f"negatives/{kind}/{suffix}": 0.25 for kind in kinds for suffix in suffixes}
    steps = [StepRecord(step=step, loss=1.0, stats=stats if step % 2 else {}) for step in range(1, 8)]
    return Line(name, RunFiles(steps=steps))


def curves_of(*lines: Line) -> dict[str, Curve]:
    return {curve.title: curve for curve in comparison_curves(lines)}


def drawing(curve: Curve) -> ElementTree.Element:
    assert curve.svg is not None, f"{curve.title} is not drawn"
    return ElementTree.fromstring(curve.svg)


def texts(curve: Curve) -> list[str]:
    return ["".join(node.itertext()).strip() for node in drawing(curve).iter(f"{SVG}text")]


def lines_drawn(curve: Curve, colour: str) -> int:
    """Paths in a colour: a line a panel, and the one of the legend."""
    return sum(colour in node.get("style", "") for node in drawing(curve).iter(f"{SVG}path"))


@pytest.mark.parametrize("suffix", TELEMETRY)
def test_each_telemetry_has_a_panel_a_kind_and_a_line_a_run(suffix: str) -> None:
    found = curves_of(run_of("first", "noise", "mixup"), run_of("second", "noise", "mixup"))
    curve = found[TELEMETRY[suffix][0]]
    assert {"noise", "mixup", "first", "second"} <= set(texts(curve))
    for number in (0, 1):
        assert lines_drawn(curve, colour_of(number)) == 2 + 1


def test_a_run_is_drawn_in_the_panels_of_its_own_negatives_alone() -> None:
    curve = curves_of(run_of("first", "noise"), run_of("second", "noise", "mixup"))["Hardness of negatives"]
    assert (lines_drawn(curve, colour_of(0)), lines_drawn(curve, colour_of(1))) == (1 + 1, 2 + 1)


def test_telemetry_that_no_run_has_is_not_drawn() -> None:
    found = curves_of(run_of("first", "noise", suffixes=("logit",)), run_of("second"))
    drawn = {title for title, _ in TELEMETRY.values() if found[title].svg}
    assert drawn == {"Hardness of negatives"}


def test_a_training_records_what_the_panels_look_for(tmp_path: Path) -> None:
    """21 steps: the second look finds labels in the queue, which false negatives are told by."""
    few = ("train.images_per_step_global=8", "data.images_per_epoch=168", "train.epochs=1")
    run = prepared(tmp_path, *few, "train.optimizer.warmup_epochs=0")
    local_loop(run).run_to_end()
    recorded = {name for record in load_run_files(run.run.store).steps for name in record.stats}
    wanted = {f"negatives/{kind}/{suffix}" for kind in NEGATIVE_KINDS for suffix in TELEMETRY}
    assert wanted <= recorded
