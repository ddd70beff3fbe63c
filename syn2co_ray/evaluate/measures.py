"""The figures of `kind: evaluate` from feature sets: which protocols run, on what, as plain values."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.randomness import named_generator
from ..spec.errors import DataError
from ..spec.evaluate import LinearSpec
from ..spec.evaluation import EvaluateJobSpec, NeighboursSpec
from .feature_shards import FeatureSet
from .few_shot import few_shot
from .knn import StreamingKnn, knn_top1, top1_percent
from .linear_probe import learn_probe, unchosen_rate
from .retrieval import leave_one_out_map

NAMES_SHOWN = 4
STEPS_ENOUGH = 1000
"""A probe from few labels is given more epochs up to so many SGD steps."""


@dataclass(frozen=True)
class Classes:
    """The classes of both sets, numbered in the order of their names."""

    names: tuple[str, ...]

    def numbers(self, labels: list[str]) -> Tensor:
        """(M,) int64."""
        places = {name: number for number, name in enumerate(self.names)}
        return torch.tensor([places[label] for label in labels])


def classes_of(bank: FeatureSet, queries: FeatureSet) -> tuple[Classes, list[str]]:
    """The classes, and what is odd about them.

    Raises:
        DataError: one class only, or evaluation images of a class that cannot be learned.
    """
    known, asked = set(bank.labels), set(queries.labels)
    if unknown := sorted(asked - known):
        count = sum(label in unknown for label in queries.labels)
        raise DataError(
            "data.eval",
            f"{count} of {len(queries.labels)} images are of {len(unknown)} classes that data.eval_bank does "
            f"not have: {_some(unknown)}; it has {_some(sorted(known))}",
            "classes of the bank only",
            "label both sets alike (same names, same label_column), or leave these images out",
        )
    if len(known) < 2:
        raise DataError(
            "data.eval_bank", f"one class only ({_some(sorted(known))})", "two or more", "add images"
        )
    notes = []
    if unasked := sorted(known - asked):
        notes.append(f"no image of data.eval is of {_some(unasked)}: nothing is known of these classes")
    return Classes(tuple(sorted(known))), notes


def unchosen_rates(job: EvaluateJobSpec, learnt: Tensor) -> list[str]:
    """Which linear probes have no row to choose a learning rate with, and so take a fixed one.

    Args:
        job: the job.
        learnt: (n,) int64, classes of the bank.
    """
    spec = job.linear or LinearSpec()
    parts = {"linear": learnt} if job.linear is not None else {}
    for share in job.label_shares.shares if job.label_shares is not None else ():
        parts[f"label_shares {share:g}"] = learnt[labelled_share(learnt, share, job.seed)]
    return [
        f"{name}: one image a class, so none is held out to choose the learning rate: "
        f"{unchosen_rate(spec):g}, the middle of the grid, is taken"
        for name, labels in parts.items()
        if len(labels.unique()) == len(labels)
    ]


def duplicates(bank: FeatureSet, queries: FeatureSet, trained_on: Iterable[bytes]) -> dict[str, int]:
    """Evaluation images that stand byte for byte elsewhere: name of the place -> how many."""
    asked = Counter(queries.contents)
    seen = {content for content in trained_on if content in asked}
    return {
        "data.eval, more than once": sum(count - 1 for count in asked.values()),
        "data.eval_bank": sum(asked[content] for content in set(bank.contents)),
        "what the weights were trained on": sum(asked[content] for content in seen),
    }


def figures(
    job: EvaluateJobSpec,
    name: str,
    bank: FeatureSet,
    queries: FeatureSet,
    classes: Classes,
    device: torch.device,
) -> dict[str, Any]:
    """One row of the results: all protocols that compare sorts of features.

    Raises:
        DataError: features that are not finite, or too few images for a protocol.
    """
    learnt, asked = classes.numbers(bank.labels), classes.numbers(queries.labels)
    bank_features, query_features = bank.features.to(device), queries.features.to(device)
    row: dict[str, Any] = {"features": name, "knn_top1_percent": {}, "linear_top1_percent": None}
    if job.knn is not None:
        found = _knn(job.knn, bank_features, learnt, query_features, asked, len(classes.names))
        row["knn_top1_percent"] = {str(k): percent for k, percent in found.items()}
    if job.linear is not None:
        probe = learn_probe(bank_features, learnt.to(device), len(classes.names), job.linear, job.seed)
        row["linear_top1_percent"] = top1_percent(probe.predict(query_features), asked)
        row["linear_learning_rate"] = probe.learning_rate
    if job.few_shot is not None:
        by_shots = few_shot(queries.features, asked, job.few_shot, job.seed)
        row["few_shot"] = {
            str(shots): {"top1_percent": r.top1_percent, "interval95_percent": r.interval95_percent}
            for shots, r in by_shots.items()
        }
    if job.label_shares is not None:
        row["label_shares"] = {}
        for share in job.label_shares.shares:
            rows = labelled_share(learnt, share, job.seed)
            spec = _long_enough(job.linear or LinearSpec(), len(learnt), len(rows))
            probe = learn_probe(
                bank_features[rows], learnt[rows].to(device), len(classes.names), spec, job.seed
            )
            percent = top1_percent(probe.predict(query_features), asked)
            row["label_shares"][f"{share:g}"] = {"top1_percent": percent, "images": len(rows)}
    if job.retrieval:
        result = leave_one_out_map(queries.features, asked)
        row["retrieval"] = {"map_percent": result.map_percent, "queries": result.queries}
    return row


def robustness(
    job: EvaluateJobSpec,
    bank: FeatureSet,
    corrupted: Iterator[tuple[str, int, FeatureSet]],
    classes: Classes,
    device: torch.device,
) -> dict[str, Any]:
    """Accuracy on corrupted evaluation images, learned from clean ones.

    Args:
        job: the job.
        bank: clean images to learn from.
        corrupted: name, severity and features of each corruption, one after the other.
        classes: of both sets.
        device: where the work is done.

    Returns:
        `by_corruption`: name -> severity -> figures, and `mean`: the figures' plain means over all.
    """
    learnt, bank_features = classes.numbers(bank.labels), bank.features.to(device)
    number = len(classes.names)
    probe = (
        learn_probe(bank_features, learnt.to(device), number, job.linear, job.seed) if job.linear else None
    )
    by_corruption: dict[str, dict[str, dict[str, float]]] = {}
    for name, severity, queries in corrupted:
        asked, features = classes.numbers(queries.labels), queries.features.to(device)
        found: dict[str, float] = {}
        if job.knn is not None:
            first = job.knn.model_copy(update={"neighbours": job.knn.neighbours[:1]})
            percents = _knn(first, bank_features, learnt, features, asked, number)
            found["knn_top1_percent"] = percents[first.neighbours[0]]
        if probe is not None:
            found["linear_top1_percent"] = top1_percent(probe.predict(features), asked)
        by_corruption.setdefault(name, {})[str(severity)] = found
    cells = [found for severities in by_corruption.values() for found in severities.values()]
    mean = {key: float(np.mean([cell[key] for cell in cells])) for key in cells[0]}
    return {"by_corruption": by_corruption, "mean": mean}


def labelled_share(labels: Tensor, share: float, seed: int) -> Tensor:
    """Rows of a share of every class, at least one image each, in the order of the set.

    A smaller share of the same seed is a part of a larger one.
    """
    kept = []
    for label in labels.unique().tolist():
        rows = torch.nonzero(labels == label).flatten()
        order = torch.from_numpy(named_generator(seed, "label-share", label).permutation(len(rows)))
        kept.append(rows[order[: max(1, round(share * len(rows)))]])
    return torch.cat(kept).sort().values


def _long_enough(spec: LinearSpec, bank_rows: int, rows: int) -> LinearSpec:
    """The probe with as many epochs as give its rows the steps of the whole bank, or 1,000 if that is less.

    Few labels make few steps an epoch: with the epochs of the whole bank the probe would stop long before
    it has learned, and the figure would tell of that.
    """
    whole = spec.epochs * math.ceil(bank_rows / spec.images_per_step)
    needed = math.ceil(min(whole, STEPS_ENOUGH) / math.ceil(rows / spec.images_per_step))
    return spec.model_copy(update={"epochs": max(spec.epochs, needed)})


def _knn(
    spec: NeighboursSpec, bank: Tensor, learnt: Tensor, queries: Tensor, asked: Tensor, classes: int
) -> dict[int, float]:
    search = StreamingKnn(queries, max(spec.neighbours))
    search.add(bank, learnt)
    return knn_top1(search.neighbours(), asked.to(queries.device), classes, spec.neighbours, spec.temperature)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(itertools.islice(names, NAMES_SHOWN)) + more
