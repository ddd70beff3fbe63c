"""Labels of records as numbers: for all that learns them, and to see which negatives are false."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.randomness import digest_words
from ..spec.errors import DataError
from ..spec.probe import HELD_OUT_ONE_IN


def label_numbers(labels: Sequence[str | None]) -> np.ndarray:
    """(n,) int64, equal for equal labels, -1 where there is none.

    A number is a digest of the label, so it needs no list of classes, and all workers agree on it.
    """
    numbers = {label: int(digest_words("label", label)[0] >> np.uint64(1)) for label in set(labels) if label}
    return np.array([numbers[label] if label else -1 for label in labels], dtype=np.int64)


def held_out(keys: Sequence[str], seed: int) -> np.ndarray:
    """(n,) bool: the tenth of a bank that chooses between classifiers, by a digest of seed and key alone."""
    words = [int(digest_words("held-out", seed, key)[0]) for key in keys]
    return np.array([word % HELD_OUT_ONE_IN == 0 for word in words], dtype=bool)


def class_numbers(
    labels: Sequence[str | None], keys: Sequence[str], classes: int | tuple[str, ...]
) -> np.ndarray:
    """(n,) int64 in [0, number of classes).

    Args:
        labels: one a record.
        keys: the records' keys, for the error.
        classes: names in order; or their number, and then a label is a decimal number itself.

    Raises:
        DataError: a record without a label, or with one that is not a class.
    """
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else classes
    numbers = {name: number for number, name in enumerate(names)}
    for key, label in zip(keys, labels, strict=True):
        if label not in numbers:
            raise DataError(
                f"data.train, image {key}",
                "no label" if label is None else f"label {label!r}",
                f"one of the {len(names)} classes of method.classes ({names[0]} ... {names[-1]})",
                "label every training image, or mend method.classes",
            )
    return np.array([numbers[label] for label in labels if label is not None], dtype=np.int64)
