"""Linear probe: softmax regression on frozen, standardised features.

Minimises the mean cross-entropy of softmax(W^T z + b), z the features shifted and scaled to mean 0 and
standard deviation 1 over the rows that are learnt from, with SGD (momentum 0.9, no weight decay) and a
cosine from the rate to 0 per step. The problem is convex and W starts at 0, so the rate is the one thing
to choose: all rates of the grid learn side by side on nine tenths of the bank, the held-out tenth picks
one, and that one learns again from the whole bank. The eval features are met once, after that. A row is held
out only if its class keeps another one; where every class has a single row, the middle of the grid is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.evaluate import LinearSpec

from .knn import check_features, check_labels, top1_percent

MOMENTUM = 0.9
_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class LinearResult:
    """What the probe found."""

    top1_percent: float
    """Top-1 accuracy on the eval features."""
    learning_rate: float
    """The rate that the held-out tenth of the bank chose."""
    heldout_top1_percent_by_rate: dict[float, float]
    """Top-1 accuracy of each rate on that tenth; empty where no row could be held out."""


@dataclass(frozen=True)
class Classifiers:
    """R linear classifiers on the same features: mean, scale (F,); weight (R, F, C); bias (R, 1, C)."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def standardised(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) * self.scale

    def predict(self, features: Tensor) -> Tensor:
        """Classes of (n, F) features by each classifier: (R, n)."""
        parts = [
            torch.baddbmm(self.bias, _repeated(self.standardised(block), self.weight), self.weight).argmax(2)
            for block in features.split(_ROWS_PER_BLOCK)
        ]
        return torch.cat(parts, dim=1)


@torch.no_grad()
def linear_probe(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    num_classes: int,
    spec: LinearSpec,
    seed: int,
) -> LinearResult:
    """Learns on the bank, tests once on the queries.

    Args:
        bank: features to learn from, (n, F), any float dtype; its device does the work.
        bank_labels: (n,) int64 in [0, num_classes).
        queries: features to test on, (M, F).
        query_labels: (M,) int64 in [0, num_classes).
        num_classes: number of classes C.
        spec: epochs, images per step and the grid of rates.
        seed: decides the held-out tenth and the order of the rows in every epoch, nothing else does.

    Raises:
        DataError: fewer than two bank rows, features that are not finite, labels out of range.
    """
    check_features(queries, where="data.eval", width=bank.shape[1])
    check_labels(query_labels, num_classes, where="data.eval")
    probe = learn_probe(bank, bank_labels, num_classes, spec, seed)
    return LinearResult(
        top1_percent(probe.predict(queries), query_labels),
        probe.learning_rate,
        probe.heldout_top1_percent_by_rate,
    )


@dataclass(frozen=True)
class Probe:
    """A classifier that has been learned, to be tested on any number of sets."""

    classifier: Classifiers
    """One only."""
    learning_rate: float
    heldout_top1_percent_by_rate: dict[float, float]

    @torch.no_grad()
    def predict(self, features: Tensor) -> Tensor:
        """Classes (M,) int64 of features (M, F)."""
        return self.classifier.predict(features.to(self.classifier.weight.device))[0]


@torch.no_grad()
def learn_probe(bank: Tensor, bank_labels: Tensor, num_classes: int, spec: LinearSpec, seed: int) -> Probe:
    """The part of `linear_probe` that learns; its arguments and errors are the same."""
    bank_labels = bank_labels.to(bank.device)
    check_features(bank, where="data.eval_bank")
    check_labels(bank_labels, num_classes, where="data.eval_bank")
    if len(bank) < 2:
        raise DataError(
            "data.eval_bank",
            "1 labelled image",
            "at least 2 (one is held out)",
            "give the probe a larger bank",
        )
    generator = torch.Generator().manual_seed(seed)
    heldout = _heldout_top1_percent(bank, bank_labels, num_classes, spec, generator)
    # max keeps the first of equals: the smallest rate.
    best_rate = max(sorted(heldout), key=lambda rate: heldout[rate]) if heldout else unchosen_rate(spec)
    final = _train(bank, bank_labels, num_classes, spec, (best_rate,), generator)
    return Probe(final, best_rate, heldout)


def unchosen_rate(spec: LinearSpec) -> float:
    """The rate where no row can be held out to choose one: the middle of the grid, of two the larger."""
    return sorted(spec.learning_rates)[len(spec.learning_rates) // 2]


def _heldout_top1_percent(
    bank: Tensor, bank_labels: Tensor, num_classes: int, spec: LinearSpec, generator: torch.Generator
) -> dict[float, float]:
    """Accuracy of each rate on a random tenth of the bank that it does not learn from; {} without one."""
    order = torch.randperm(len(bank), generator=generator)
    is_heldout = _held_out(bank_labels.cpu()[order], num_classes)
    heldout, learnt = order[is_heldout].to(bank.device), order[~is_heldout].to(bank.device)
    if not len(heldout):
        return {}
    rates = tuple(spec.learning_rates)
    grid = _train(bank[learnt], bank_labels[learnt], num_classes, spec, rates, generator)
    predicted = grid.predict(bank[heldout])
    return {rate: top1_percent(row, bank_labels[heldout]) for rate, row in zip(rates, predicted, strict=True)}


def _held_out(labels: Tensor, num_classes: int) -> Tensor:
    """Of rows in random order, (n,) bool: the first tenth of those that are not the last of their class."""
    rows = torch.arange(len(labels))
    last = torch.zeros(num_classes, dtype=torch.int64).scatter_reduce(0, labels, rows, "amax")
    able = last[labels] != rows
    return able & (able.cumsum(dim=0) <= max(1, len(labels) // 10))


def _train(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    spec: LinearSpec,
    rates: tuple[float, ...],
    generator: torch.Generator,
) -> Classifiers:
    """One classifier for each rate; all see the same rows in the same order, none sees another."""
    mean, scale = _mean_and_scale(features)
    weight = mean.new_zeros(len(rates), features.shape[1], num_classes)
    bias = mean.new_zeros(len(rates), 1, num_classes)
    classifiers = Classifiers(mean, scale, weight, bias)
    velocities = torch.zeros_like(weight), torch.zeros_like(bias)
    peak_rate = torch.tensor(rates, dtype=mean.dtype, device=mean.device).view(-1, 1, 1)
    rows_per_step = spec.images_per_step
    steps = spec.epochs * math.ceil(len(features) / rows_per_step)
    step = 0
    for _ in range(spec.epochs):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for rows in order.split(rows_per_step):
            gradients = _gradients(classifiers, features[rows], labels[rows])
            rate = peak_rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            for parameter, velocity, gradient in zip((weight, bias), velocities, gradients, strict=True):
                velocity.mul_(MOMENTUM).add_(gradient)
                parameter.sub_(rate * velocity)
            step += 1
    return classifiers


def _gradients(classifiers: Classifiers, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the mean cross-entropy: z^T (softmax - onehot) / n for W; summed over n for b."""
    inputs = _repeated(classifiers.standardised(features), classifiers.weight)
    error = torch.baddbmm(classifiers.bias, inputs, classifiers.weight).softmax(dim=2)
    error[:, torch.arange(len(labels), device=labels.device), labels] -= 1
    error /= len(labels)
    return inputs.transpose(1, 2) @ error, error.sum(dim=1, keepdim=True)


def _repeated(inputs: Tensor, weight: Tensor) -> Tensor:
    """(n, F) seen as (R, n, F) without a copy."""
    return inputs.expand(len(weight), *inputs.shape)


def _mean_and_scale(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of each column, (F,) float32; a constant column keeps scale 1.

    Summed in float64, block by block, so that a large bank in half precision is never copied whole.
    """
    rows = len(features)
    blocks = features.split(_ROWS_PER_BLOCK)
    mean = (
        sum((block.double().sum(dim=0) for block in blocks), features.new_zeros((), dtype=torch.float64))
        / rows
    )
    squares = (((block.double() - mean) ** 2).sum(dim=0) for block in blocks)
    deviation = (sum(squares, torch.zeros_like(mean)) / rows).sqrt()
    constant = deviation <= 1e-6 * mean.abs()
    scale = torch.where(constant, torch.ones_like(deviation), 1 / deviation)
    return mean.float(), scale.float()
