"""Few-shot: against scikit-learn's nearest centroid on real images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from syn2co_ray.evaluate.few_shot import _drawn, few_shot
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.evaluation import FewShotSpec

SPEC = FewShotSpec(shots=(1, 5), episodes=40)


def test_accuracy_is_that_of_scikit_learns_nearest_centroid_on_the_same_episodes(pixels):
    features, labels = pixels.queries, pixels.query_labels
    found = few_shot(features, labels, SPEC, seed=3)
    places = {c: np.flatnonzero(labels.numpy() == c) for c in range(10)}
    percents = []
    for number in range(SPEC.episodes):
        rows = _drawn(places, SPEC, 5, 3, number)
        assert len(np.unique(rows)) == rows.size
        drawn = features.double().numpy()[rows]
        drawn -= drawn[:, :5].mean(axis=(0, 1))
        drawn /= np.linalg.norm(drawn, axis=2, keepdims=True)
        oracle = NearestCentroid().fit(drawn[:, :5].reshape(25, -1), np.repeat(np.arange(5), 5))
        percents.append(100 * oracle.score(drawn[:, 5:].reshape(75, -1), np.repeat(np.arange(5), 15)))
    assert found[5].top1_percent == pytest.approx(np.mean(percents), abs=1e-9)
    interval = 1.96 * np.std(percents, ddof=1) / np.sqrt(40)
    assert found[5].interval95_percent == pytest.approx(interval, abs=1e-9)
    assert 20 < found[1].top1_percent < found[5].top1_percent


def test_episodes_depend_on_the_seed_alone(digits):
    features, labels = digits.queries, digits.query_labels
    assert few_shot(features, labels, SPEC, seed=1) == few_shot(features, labels, SPEC, seed=1)
    assert few_shot(features, labels, SPEC, seed=1) != few_shot(features, labels, SPEC, seed=2)


def test_too_few_images_or_classes_are_refused(digits):
    features, labels = digits.queries, digits.query_labels
    with pytest.raises(DataError, match=r"0 classes of data.eval have 1 shots \+ 500 queries.*at least 5"):
        few_shot(features, labels, FewShotSpec(queries=500), seed=0)
