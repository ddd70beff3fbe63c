"""Curves: what is drawn, gaps, bounded size, no trust in names."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from syn2co_ray.report.plots import run_curves
from syn2co_ray.report.run_files import EvalRecord, ResultRow, StepRecord
from syn2co_ray.report.series import POINTS_MAX, binned, moving_mean
from syn2co_ray.report.svg import Curve

SVG = "{http://www.w3.org/2000/svg}"


def steps(count: int, **fields) -> list[StepRecord]:
    return [StepRecord(step=step, loss=math.sin(step), **fields) for step in range(count)]


def curve(curves: list[Curve], title: str) -> Curve:
    return next(curve for curve in curves if curve.title == title)


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_nothing_recorded_no_curve_is_invented():
    assert [curve.svg for curve in run_curves([], [])] == [None] * len(run_curves([], []))


def test_only_what_was_recorded_is_drawn():
    drawn = {
        curve.title
        for curve in run_curves(steps(5), [EvalRecord(step=3, epoch=1, knn={10: 50.0})])
        if curve.svg
    }
    assert drawn == {"Loss", "k-NN accuracy"}


def test_values_that_are_all_missing_or_not_finite_draw_nothing():
    records = [StepRecord(step=step, loss=math.nan, gradient_norm=None) for step in range(5)]
    assert all(curve.svg is None for curve in run_curves(records, []))


def test_knn_curve_names_every_k_and_the_baselines():
    evals = [EvalRecord(step=step, epoch=step, knn={10: 50.0, 20: 45.0}) for step in (1, 2)]
    rows = [
        ResultRow(features="trained encoder", knn_top1_percent={10: 90}),
        ResultRow(features="random encoder", knn_top1_percent={10: 40}),
    ]
    found = texts(curve(run_curves([], evals, rows), "k-NN accuracy").svg)
    assert {"k = 10", "k = 20", "random encoder, k = 10", "epoch"} <= set(found)
    assert not any("trained" in text for text in found)


def test_embeddings_are_drawn_from_the_steps_that_looked_at_them():
    looked = {"embedding/rankme": 7.0, "embedding/alignment": 0.5, "embedding/uniformity": -2.0}
    records = [StepRecord(step=step, stats=looked if step % 20 == 0 else {}) for step in range(100)]
    found = curve(run_curves(records, []), "Embeddings").svg
    assert {"rankme", "alignment", "uniformity", "step"} <= set(texts(found))
    assert curve(run_curves(steps(5), []), "Embeddings").svg is None


def test_one_line_for_each_kind_of_negative():
    early = steps(3, stats={"positive/logit": 0.5, "queue/logit": 0.1})
    late = [StepRecord(step=step, stats={"negatives/noise/logit": 0.4}) for step in range(3, 6)]
    found = texts(curve(run_curves(early + late, []), "Hardness of negatives").svg)
    assert {"positive", "queue", "noise"} <= set(found)


def test_wide_gradient_norms_get_plain_numbers_on_a_log_axis():
    records = [StepRecord(step=step, gradient_norm=10.0**step) for step in range(-2, 3)]
    found = texts(curve(run_curves(records, []), "Gradient norm").svg)
    assert {"0.1", "1", "10"} <= set(found)
    assert not any("$" in text for text in found)


def test_skipped_steps_are_counted():
    records = [*steps(5), StepRecord(step=5, loss=None, skipped=True)]
    assert "1 skipped step" in curve(run_curves(records, []), "Loss").caption


def test_names_from_files_are_text_never_markup_or_formulas():
    evil = "</text></svg><script>x</script>$\\frac{"
    drawn = curve(run_curves(steps(5, stats={f"{evil}/logit": 0.5}), []), "Hardness of negatives")
    assert evil in texts(drawn.svg)
    assert "<script" not in drawn.svg


def test_same_run_same_bytes_and_no_id_twice_in_a_page():
    records = steps(50, gradient_norm=1.0, images_per_s=3.0)
    first, second = run_curves(records, []), run_curves(records, [])
    assert first == second
    ids = [
        node.get("id")
        for c in first
        if c.svg
        for node in ElementTree.fromstring(c.svg).iter()
        if node.get("id")
    ]
    assert len(ids) > 20
    assert len(ids) == len(set(ids))


def test_long_run_svg_stays_small():
    short, long = (curve(run_curves(steps(count), []), "Loss").svg for count in (POINTS_MAX, 20 * POINTS_MAX))
    assert len(long) < 3 * len(short)


def test_bins_keep_spikes_means_and_gaps():
    generator = np.random.default_rng(0)
    x = np.arange(10_000.0)
    y = generator.normal(size=10_000)
    y[1234] = 99.0
    y[5000:5100] = np.nan
    bin_x, low, mean, high = binned(x, y)
    assert len(bin_x) == POINTS_MAX
    assert np.nanmax(high) == 99.0
    assert np.nanmin(low) == np.nanmin(y)
    gaps = np.isnan(mean)
    assert gaps.any()
    assert ((bin_x[gaps] > 4980) & (bin_x[gaps] < 5120)).all()
    assert np.nanmean(mean) == pytest.approx(np.nanmean(y), abs=0.01)
    edges = np.linspace(0, len(x), POINTS_MAX + 1).astype(int)
    for position in (0, 17, POINTS_MAX - 1):
        assert mean[position] == pytest.approx(y[edges[position] : edges[position + 1]].mean())


def test_moving_mean_equals_a_plain_loop_and_leaves_gaps():
    y = np.random.default_rng(1).normal(size=500)
    y[100:120] = np.nan
    half = 5
    expected = [
        np.nan if np.isnan(y[i]) else np.nanmean(y[max(0, i - half) : i + half + 1]) for i in range(len(y))
    ]
    np.testing.assert_allclose(moving_mean(y), expected)
