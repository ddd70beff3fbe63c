"""Linear probe: against scikit-learn and torch's own SGD; the eval set never chooses."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from syn2co_ray.evaluate.linear_probe import LinearResult, _held_out, learn_probe, linear_probe
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.evaluate import LinearSpec

CLASSES = 10
SHORT = LinearSpec(epochs=5)


def test_predictions_of_real_images_are_near_scikit_learns(pixels):
    """1.5 points, and nine in ten images get the same class: its optimum has a small L2 penalty, ours none."""
    bank, labels, queries, query_labels = pixels
    result = linear_probe(*pixels, CLASSES, LinearSpec(), seed=0)
    scaler = StandardScaler().fit(bank.numpy())
    oracle = LogisticRegression(max_iter=2000).fit(scaler.transform(bank.numpy()), labels.numpy())
    expected = oracle.predict(scaler.transform(queries.numpy()))
    oracle_percent = 100 * (expected == query_labels.numpy()).mean()
    assert result.top1_percent == pytest.approx(oracle_percent, abs=1.5)
    same = learn_probe(bank, labels, CLASSES, LinearSpec(), seed=0).predict(queries).numpy() == expected
    assert same.mean() > 0.9
    assert set(result.heldout_top1_percent_by_rate) == set(LinearSpec().learning_rates)


def test_chosen_rate_has_the_best_heldout_accuracy(digits):
    # The first rate is too small to learn anything: choosing must matter.
    spec = LinearSpec(epochs=2, learning_rates=(1e-7, 0.1))
    result = linear_probe(*digits, CLASSES, spec, seed=1)
    heldout = result.heldout_top1_percent_by_rate
    assert heldout[0.1] > heldout[1e-7]
    assert result.learning_rate == 0.1


def test_equal_heldout_accuracy_smallest_rate_wins(digits):
    bank, _, queries, query_labels = digits
    one_class = torch.zeros(len(bank), dtype=torch.int64)
    spec = LinearSpec(epochs=1, learning_rates=(0.1, 0.01, 1.0))
    result = linear_probe(bank, one_class, queries, query_labels, CLASSES, spec, seed=0)
    assert set(result.heldout_top1_percent_by_rate.values()) == {100.0}
    assert result.learning_rate == 0.01


def test_eval_set_changes_neither_choice_nor_classifier(digits):
    bank, labels, queries, query_labels = digits
    whole = linear_probe(*digits, CLASSES, SHORT, seed=0)
    wrong_labels = (query_labels + 1) % CLASSES
    other = linear_probe(bank, labels, queries[:50] * 3, wrong_labels[:50], CLASSES, SHORT, seed=0)
    assert other.learning_rate == whole.learning_rate
    assert other.heldout_top1_percent_by_rate == whole.heldout_top1_percent_by_rate
    halves = [
        linear_probe(bank, labels, queries[rows], query_labels[rows], CLASSES, SHORT, seed=0).top1_percent
        for rows in (slice(0, 200), slice(200, None))
    ]
    # The same classifier judged both halves, so their hits add up to those of the whole.
    hits = halves[0] * 200 + halves[1] * (len(queries) - 200)
    assert hits == pytest.approx(whole.top1_percent * len(queries))


def test_same_seed_same_result_whatever_the_global_generator(digits):
    torch.manual_seed(1)
    first = linear_probe(*digits, CLASSES, SHORT, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert linear_probe(*digits, CLASSES, SHORT, seed=5) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert linear_probe(*digits, CLASSES, SHORT, seed=6) != first


def test_other_rates_in_the_grid_change_nothing_for_a_rate(digits):
    alone = linear_probe(*digits, CLASSES, LinearSpec(epochs=3, learning_rates=(0.03,)), seed=0)
    grid = linear_probe(*digits, CLASSES, LinearSpec(epochs=3, learning_rates=(1e-7, 0.03, 1e6)), seed=0)
    assert grid.heldout_top1_percent_by_rate[0.03] == alone.heldout_top1_percent_by_rate[0.03]


def torch_sgd_percent(bank, labels, queries, query_labels, rate: float, spec: LinearSpec, seed: int) -> float:
    """One rate, with autograd, torch's SGD and cosine, replaying the documented order of the draws."""
    generator = torch.Generator().manual_seed(seed)
    torch.randperm(len(bank), generator=generator)
    for _ in range(spec.epochs):
        torch.randperm(len(bank) - len(bank) // 10, generator=generator)
    mean, deviation = bank.mean(0), bank.std(0, unbiased=False)
    deviation[deviation == 0] = 1
    model = torch.nn.Linear(bank.shape[1], CLASSES)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    steps = spec.epochs * math.ceil(len(bank) / spec.images_per_step)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(spec.epochs):
        for rows in torch.randperm(len(bank), generator=generator).split(spec.images_per_step):
            loss = torch.nn.functional.cross_entropy(model((bank[rows] - mean) / deviation), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    predicted = model((queries - mean) / deviation).argmax(1)
    return 100 * (predicted == query_labels).double().mean().item()


def test_steps_equal_torch_sgd_with_autograd(digits):
    spec = LinearSpec(epochs=2, images_per_step=300, learning_rates=(0.01,))
    expected = torch_sgd_percent(*digits, rate=0.01, spec=spec, seed=4)
    assert linear_probe(*digits, CLASSES, spec, seed=4).top1_percent == pytest.approx(expected)


def test_features_shifted_and_scaled_are_learnt_as_well(digits):
    bank, labels, queries, query_labels = digits
    shift, scale = torch.arange(64) * 10.0, torch.logspace(-2, 2, 64)
    plain = linear_probe(*digits, CLASSES, SHORT, seed=0)
    moved = linear_probe(
        bank * scale + shift, labels, queries * scale + shift, query_labels, CLASSES, SHORT, seed=0
    )
    assert moved.top1_percent == pytest.approx(plain.top1_percent, abs=1)


def test_half_precision_bank_is_learnt_in_float32(digits):
    bank, labels, queries, query_labels = digits
    half = linear_probe(bank.bfloat16(), labels, queries.bfloat16(), query_labels, CLASSES, SHORT, seed=0)
    assert half == linear_probe(*digits, CLASSES, SHORT, seed=0)


def test_result_is_plain_data():
    bank, labels = torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5)
    result = linear_probe(bank, labels, torch.eye(4), torch.arange(4), 4, LinearSpec(epochs=20), seed=0)
    assert isinstance(result, LinearResult)
    assert result.top1_percent == 100.0


@pytest.mark.parametrize(
    ("bank", "labels", "message"),
    [
        (torch.ones(1, 3), torch.tensor([0]), "data.eval_bank: 1 labelled image; allowed: at least 2"),
        (torch.full((4, 3), torch.inf), torch.zeros(4).long(), "4 of 4 images have features that are not"),
        (torch.ones(4, 3), torch.tensor([0, 1, -1, 1]), "data.eval_bank: labels from -1 to 1; allowed: 0 to"),
        (torch.ones(4, 2), torch.zeros(4).long(), "data.eval: 3 features per image; allowed: 2"),
    ],
)
def test_unusable_bank_is_refused(bank, labels, message):
    with pytest.raises(DataError, match=message):
        linear_probe(bank, labels, torch.ones(2, 3), torch.tensor([0, 1]), CLASSES, SHORT, seed=0)


def test_a_class_keeps_a_row_to_learn_from_and_a_large_bank_is_split_as_ever():
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    labels = order % 10
    assert _held_out(labels, CLASSES).nonzero().flatten().tolist() == list(range(100))
    rare = torch.tensor([3, 0, 1, 2, 0, 1, 4, 2, 0, 1])
    assert _held_out(rare, CLASSES).nonzero().flatten().tolist() == [1]
    assert not _held_out(torch.arange(10), CLASSES).any()


def test_with_one_image_a_class_the_rate_is_the_middle_of_the_grid(digits):
    bank, labels, queries, query_labels = digits
    rows = torch.stack([(labels == number).nonzero()[0, 0] for number in range(CLASSES)])
    spec = LinearSpec(epochs=20, learning_rates=(1.0, 1e-9, 0.1))
    result = linear_probe(bank[rows], labels[rows], queries, query_labels, CLASSES, spec, seed=0)
    assert (result.learning_rate, result.heldout_top1_percent_by_rate) == (0.1, {})
    assert result.top1_percent > 30
