"""k-NN: against scikit-learn and a plain loop; the same figure however the bank is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.overrides import TorchFunctionMode

from syn2co_ray.evaluate.knn import Neighbours, StreamingKnn, knn_top1, vote
from syn2co_ray.spec.errors import DataError

CLASSES = 10
TEMPERATURE = 0.07


@pytest.fixture
def tied() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Few distinct directions, so that most similarities are exactly equal: bank, labels, queries."""
    generator = torch.Generator().manual_seed(3)
    bank = torch.randint(-1, 2, (300, 3), generator=generator).float()
    scale = torch.randint(1, 9, (300, 1), generator=generator)
    queries = torch.randint(-1, 2, (40, 3), generator=generator).float()
    return bank * scale, torch.randint(0, CLASSES, (300,), generator=generator), queries


def search(bank, labels, queries, k_max, chunk=8192, piece=None) -> Neighbours:
    knn = StreamingKnn(queries, k_max, chunk)
    for start in range(0, len(bank), piece or len(bank)):
        rows = slice(start, start + (piece or len(bank)))
        knn.add(bank[rows], labels[rows])
    return knn.neighbours()


def assert_equal(found: Neighbours, expected: Neighbours) -> None:
    for found_part, expected_part in zip(found, expected, strict=True):
        assert torch.equal(found_part, expected_part)


def looped_prediction(bank, labels, query, k) -> int:
    """The protocol from its definition, one pair at a time, exact on small integers."""

    def similarity(feature: np.ndarray) -> float:
        norms = math.sqrt(float(feature @ feature)) * math.sqrt(float(query @ query))
        return round(float(feature @ query) / norms, 6) if norms else 0.0

    ranked = sorted(range(len(bank)), key=lambda row: (-similarity(bank[row]), row))[:k]
    votes = [0.0] * CLASSES
    for row in ranked:
        votes[labels[row]] += math.exp(similarity(bank[row]) / TEMPERATURE)
    return max(range(CLASSES), key=lambda c: (round(votes[c], 3), -c))


@pytest.mark.parametrize("k", [1, 10, 200])
def test_predictions_of_real_images_equal_scikit_learn(pixels, k):
    """Image by image, without tolerance; both sets have ten classes."""
    bank, labels, queries, query_labels = pixels
    oracle = KNeighborsClassifier(
        n_neighbors=k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / TEMPERATURE),
    ).fit(bank.double().numpy(), labels.numpy())
    neighbours = search(bank, labels, queries, k_max=200, chunk=333)
    predicted = vote(neighbours.similarities, neighbours.labels, CLASSES, k, TEMPERATURE)
    assert np.array_equal(predicted.numpy(), oracle.predict(queries.double().numpy()))
    percent = 100 * oracle.score(queries.double().numpy(), query_labels.numpy())
    assert knn_top1(neighbours, query_labels, CLASSES, [k], TEMPERATURE)[k] == pytest.approx(percent)
    assert percent > 2 * 100 / CLASSES


@pytest.mark.parametrize("k", [1, 7, 50])
def test_ties_predictions_equal_plain_loop(tied, k):
    bank, labels, queries = tied
    neighbours = search(bank, labels, queries, k_max=50, chunk=64)
    predicted = vote(neighbours.similarities, neighbours.labels, CLASSES, k, TEMPERATURE)
    expected = [looped_prediction(bank.numpy(), labels.numpy(), query, k) for query in queries.numpy()]
    assert predicted.tolist() == expected


@pytest.mark.parametrize(("chunk", "piece"), [(1, 300), (7, 64), (64, 7), (300, 1), (1000, 300)])
def test_cutting_the_bank_changes_no_bit(tied, digits, chunk, piece):
    bank, labels, queries = tied
    assert_equal(search(bank, labels, queries, 20, chunk, piece), search(bank, labels, queries, 20))
    bank, labels, queries, _ = (part[:300] for part in digits)
    assert_equal(search(bank, labels, queries, 20, chunk, piece), search(bank, labels, queries, 20))


def test_equal_similarities_lower_bank_index_first(tied):
    bank, labels, queries = tied
    neighbours = search(bank, labels, queries, 50)
    equal = neighbours.similarities[:, 1:] == neighbours.similarities[:, :-1]
    rising = neighbours.indices[:, 1:] > neighbours.indices[:, :-1]
    assert equal.float().mean() > 0.5
    assert bool(rising[equal].all())


@pytest.mark.parametrize("ranks", [2, 3])
def test_bank_split_over_ranks_and_merged_equals_whole(tied, ranks):
    bank, labels, queries = tied
    parts = []
    for rank in reversed(range(ranks)):
        rows = torch.arange(rank, len(bank), ranks).flip(0)
        knn = StreamingKnn(queries, k_max=20, chunk=16)
        knn.add(bank[rows], labels[rows], rows)
        parts.append(knn)
    for other in parts[1:]:
        parts[0].merge(other.neighbours())
    assert_equal(parts[0].neighbours(), search(bank, labels, queries, 20))


class LargestTensor(TorchFunctionMode):
    """Notes the largest tensor that any operation returns."""

    elements = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_memory_largest_tensor_does_not_grow_with_the_bank():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1100, 8, generator=generator)

    def largest(bank_rows: int) -> int:
        bank = torch.randn(bank_rows, 8, generator=generator)
        labels = torch.randint(0, CLASSES, (bank_rows,), generator=generator)
        knn = StreamingKnn(queries, k_max=5, chunk=64)
        with LargestTensor() as seen:
            for rows in torch.arange(bank_rows).split(100):
                knn.add(bank[rows], labels[rows])
        return seen.elements

    small = largest(200)
    assert small >= 1024 * 64
    assert largest(1000) == small


def test_half_precision_features_are_compared_in_full(digits):
    bank, labels, queries, _ = (part[:200] for part in digits)
    # Digits have pixels 0..16, exact in bfloat16: a search in half precision would round the cosines.
    assert_equal(search(bank.bfloat16(), labels, queries.bfloat16(), 10), search(bank, labels, queries, 10))


def test_k_larger_than_the_bank_lets_the_whole_bank_vote():
    bank = torch.eye(3)
    neighbours = search(bank, torch.tensor([2, 0, 1]), bank, k_max=200)
    assert neighbours.labels.shape == (3, 3)
    top1 = knn_top1(neighbours, torch.tensor([2, 0, 0]), 3, [1, 200], TEMPERATURE)
    assert top1 == {1: pytest.approx(200 / 3), 200: pytest.approx(200 / 3)}


def test_tiny_temperature_does_not_overflow(digits):
    bank, labels, queries, query_labels = digits
    neighbours = search(bank, labels, queries, 10)
    top1 = knn_top1(neighbours, query_labels, CLASSES, [1, 10], temperature=1e-6)
    assert top1[10] == top1[1]


def test_rank_without_a_part_of_the_bank_changes_nothing(tied):
    bank, labels, queries = tied
    idle, busy = StreamingKnn(queries, k_max=20), StreamingKnn(queries, k_max=20)
    idle.add(bank[:0], labels[:0])
    busy.add(bank[:7], labels[:7])
    idle.merge(busy.neighbours())
    assert_equal(idle.neighbours(), search(bank[:7], labels[:7], queries, 20))


def test_empty_bank_is_refused():
    knn = StreamingKnn(torch.ones(2, 3), k_max=5)
    knn.add(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    with pytest.raises(DataError, match="eval_bank: no labelled image"):
        knn.neighbours()


@pytest.mark.parametrize(
    ("bank", "message"),
    [
        (torch.tensor([[1.0, float("nan"), 0.0]]), "1 of 1 images have features that are not finite"),
        (torch.ones(4, 2), "2 features per image; allowed: 3"),
    ],
)
def test_unusable_bank_is_refused(bank, message):
    with pytest.raises(DataError, match=message):
        StreamingKnn(torch.ones(2, 3), k_max=5).add(bank, torch.zeros(len(bank), dtype=torch.int64))


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_label_out_of_range_is_refused(label):
    neighbours = search(torch.ones(1, 3), torch.tensor([label]), torch.ones(1, 3), 1)
    with pytest.raises(DataError, match="allowed: 0 to 9"):
        knn_top1(neighbours, torch.tensor([0]), CLASSES, [1], TEMPERATURE)
