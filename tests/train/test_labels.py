from __future__ import annotations

import numpy as np
import pytest

from syn2co_ray.spec.errors import DataError
from syn2co_ray.train.labels import class_numbers, label_numbers


def test_label_numbers_are_equal_where_labels_are_and_known_by_all_processes() -> None:
    numbers = label_numbers(["cat", None, "dog", "cat", ""])
    assert numbers.dtype == np.int64
    assert numbers[0] == numbers[3] != numbers[2]
    assert numbers[1] == numbers[4] == -1
    assert (numbers[[0, 2]] >= 0).all()
    assert label_numbers(["cat"])[0] == numbers[0] == 133204486906983470


def test_class_numbers_are_places_in_the_list_or_the_labels_themselves() -> None:
    assert class_numbers(["2", "0"], ["a", "b"], 3).tolist() == [2, 0]
    assert class_numbers(["dog", "cat"], ["a", "b"], ("cat", "dog")).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("label", "got"), [(None, "no label"), ("3", "label '3'"), ("dog", "label 'dog'"), ("-1", "label '-1'")]
)
def test_labels_outside_the_classes_are_refused_with_the_images_key(label: str | None, got: str) -> None:
    with pytest.raises(DataError, match=f"image folder/b.jpg: {got}; allowed: one of the 3 classes"):
        class_numbers(["1", label], ["a", "folder/b.jpg"], 3)
