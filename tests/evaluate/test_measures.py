"""The protocols on feature sets: independent implementations, sets that do not match, duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from syn2co_ray.evaluate.feature_shards import FeatureSet
from syn2co_ray.evaluate.measures import (
    _long_enough,
    classes_of,
    duplicates,
    figures,
    labelled_share,
    robustness,
    unchosen_rates,
)
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.evaluate import LinearSpec
from syn2co_ray.spec.load import load_text

from .conftest import Pixels

CPU = torch.device("cpu")
JOB = """\
kind: evaluate
name: digits
storage: runs
weights: {random_seed: 0, backbone: resnet18}
data: {eval: {uri: eval}, eval_bank: {uri: bank}}
"""


def some(features: Any, labels: Any, first: int = 0) -> FeatureSet:
    keys = [str(first + i) for i in range(len(labels))]
    return FeatureSet(
        keys, [str(label) for label in labels], [key.encode() for key in keys], torch.as_tensor(features), []
    )


def feature_sets(pixels: Pixels) -> tuple[FeatureSet, FeatureSet]:
    """Bank and queries."""
    bank = some(pixels.bank, pixels.bank_labels.tolist())
    return bank, some(pixels.queries, pixels.query_labels.tolist(), len(bank.keys))


@pytest.fixture(scope="module")
def digit_sets(digits: Pixels) -> tuple[FeatureSet, FeatureSet]:
    return feature_sets(digits)


def scikit_learns_percent(bank: FeatureSet, rows: Any, queries: FeatureSet) -> float:
    """Top-1 of its logistic regression (L2 penalty of strength 1), learnt from some rows of the bank."""
    learnt = bank.features.numpy()[rows]
    scaler = StandardScaler().fit(learnt)
    oracle = LogisticRegression(max_iter=2000).fit(scaler.transform(learnt), np.array(bank.labels)[rows])
    return 100 * oracle.score(scaler.transform(queries.features.numpy()), queries.labels)


def test_knn_and_probe_of_real_images_are_near_scikit_learns(pixels):
    bank, queries = feature_sets(pixels)
    classes, notes = classes_of(bank, queries)
    assert notes == []
    row = figures(load_text(JOB), "pixels", bank, queries, classes, CPU)
    for k in (10, 20, 100, 200):
        oracle = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
        oracle.fit(bank.features.numpy(), bank.labels)
        percent = 100 * oracle.score(queries.features.numpy(), queries.labels)
        assert row["knn_top1_percent"][str(k)] == pytest.approx(percent, abs=0.26)  # one image of 397
    percent = scikit_learns_percent(bank, slice(None), queries)
    assert row["linear_top1_percent"] == pytest.approx(percent, abs=1.5)


def test_probe_from_a_share_of_the_labels_is_near_scikit_learns_on_the_same_rows(pixels):
    """The mean of three draws, to 2.5 points: a dozen images of 120 or 140 choose the rate."""
    bank, queries = feature_sets(pixels)
    classes = classes_of(bank, queries)[0]
    percents, expected = [], []
    for seed in range(3):
        job = load_text(JOB, ["knn=null", "linear=null", "label_shares={shares: [0.1]}", f"seed={seed}"])
        found = figures(job, "pixels", bank, queries, classes, CPU)["label_shares"]["0.1"]
        rows = labelled_share(classes.numbers(bank.labels), 0.1, seed).numpy()
        assert found["images"] == len(rows) == pytest.approx(len(bank.keys) / 10, abs=5)
        percents.append(found["top1_percent"])
        expected.append(scikit_learns_percent(bank, rows, queries))
    assert np.mean(percents) == pytest.approx(np.mean(expected), abs=2.5)


@pytest.mark.parametrize(
    ("epochs", "bank_rows", "rows", "expected"),
    [
        (100, 1400, 140, 600),  # one step an epoch: the 600 steps of six an epoch
        (20, 1400, 140, 120),
        (100, 50_000, 500, 500),  # two an epoch: 1,000 steps are enough
        (100, 1_281_167, 12_811, 100),
    ],
)
def test_few_labels_are_learned_for_as_many_steps_as_all(epochs, bank_rows, rows, expected):
    assert _long_enough(LinearSpec(epochs=epochs), bank_rows, rows).epochs == expected


def test_only_what_is_asked_for_is_measured(digit_sets):
    job = load_text(JOB, ["knn=null", "linear=null", "retrieval=true", "few_shot={episodes: 5}"])
    row = figures(job, "pixels", *digit_sets, classes_of(*digit_sets)[0], CPU)
    assert row["knn_top1_percent"] == {}
    assert row["linear_top1_percent"] is None
    assert set(row) - {"features", "knn_top1_percent", "linear_top1_percent"} == {"few_shot", "retrieval"}


def test_few_labels_teach_less(digit_sets):
    job = load_text(JOB, ["linear.epochs=20", "label_shares={shares: [0.01, 0.1]}"])
    row = figures(job, "pixels", *digit_sets, classes_of(*digit_sets)[0], CPU)
    one, ten = row["label_shares"]["0.01"], row["label_shares"]["0.1"]
    assert 30 < one["top1_percent"] < ten["top1_percent"] < row["linear_top1_percent"]
    assert one["images"] < ten["images"] < 1400 / 9


def test_a_share_of_labels_is_stratified_and_part_of_a_larger_one():
    labels = torch.tensor([0] * 100 + [1] * 1000 + [2] * 3)
    tenth, fifth = labelled_share(labels, 0.1, 7), labelled_share(labels, 0.2, 7)
    assert torch.bincount(labels[tenth]).tolist() == [10, 100, 1]
    assert torch.bincount(labels[fifth]).tolist() == [20, 200, 1]
    assert set(tenth.tolist()) <= set(fifth.tolist())
    assert not torch.equal(tenth, labelled_share(labels, 0.1, 8))


def test_robustness_learns_from_clean_images_once_and_means_are_plain(digit_sets):
    bank, queries = digit_sets
    noisy = some(queries.features + 8 * torch.randn(queries.features.shape), queries.labels)
    job = load_text(JOB, ["linear.epochs=20"])
    classes = classes_of(bank, queries)[0]
    found = robustness(job, bank, iter([("none", 1, queries), ("noise", 3, noisy)]), classes, CPU)
    row = figures(job, "pixels", bank, queries, classes, CPU)
    clean, hurt = found["by_corruption"]["none"]["1"], found["by_corruption"]["noise"]["3"]
    assert clean["linear_top1_percent"] == row["linear_top1_percent"]
    assert clean["knn_top1_percent"] == row["knn_top1_percent"]["10"]
    assert hurt["linear_top1_percent"] < clean["linear_top1_percent"] - 5
    mean = (clean["knn_top1_percent"] + hurt["knn_top1_percent"]) / 2
    assert found["mean"]["knn_top1_percent"] == pytest.approx(mean)


def test_label_sets_that_do_not_match_are_refused_or_said():
    features = torch.eye(4)
    bank = some(features, ["cat", "dog", "owl", "owl"])
    with pytest.raises(DataError) as caught:
        classes_of(bank, some(features, ["0", "1", "cat", "0"]))
    assert (
        "3 of 4 images are of 2 classes that data.eval_bank does not have: 0, 1; it has cat, dog, owl"
        in str(caught.value)
    )
    classes, notes = classes_of(bank, some(features[:2], ["owl", "cat"]))
    assert classes.numbers(["owl", "cat"]).tolist() == [2, 0]
    assert notes == ["no image of data.eval is of dog: nothing is known of these classes"]
    with pytest.raises(DataError, match=r"one class only \(cat\)"):
        classes_of(some(features, ["cat"] * 4), some(features, ["cat"] * 4))


def test_images_that_stand_elsewhere_are_counted_by_content():
    bank = some(torch.eye(3), ["a", "b", "a"])
    queries = FeatureSet(["x", "y", "z", "w"], list("abab"), [b"1", b"9", b"9", b"2"], torch.eye(4), [])
    assert duplicates(bank, queries, iter([b"9", b"7"])) == {
        "data.eval, more than once": 1,
        "data.eval_bank": 2,
        "what the weights were trained on": 2,
    }


def test_a_rate_that_nothing_can_choose_is_said():
    job = load_text(JOB, ["label_shares={shares: [0.1, 0.5]}"])
    learnt = torch.tensor([0, 1, 2] * 10)
    assert unchosen_rates(job, learnt) == [
        "label_shares 0.1: one image a class, so none is held out to choose the learning rate: 0.1, "
        "the middle of the grid, is taken"
    ]
    assert [note.split(":")[0] for note in unchosen_rates(job, torch.arange(3))] == [
        "linear",
        "label_shares 0.1",
        "label_shares 0.5",
    ]
