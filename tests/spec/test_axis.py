"""Where a value lies on its key's axis."""

from __future__ import annotations

import math

import pytest

from syn2co_ray.spec.axis import in_their_order, unit_position
from syn2co_ray.spec.search import DimensionSpec


@pytest.mark.parametrize(
    ("form", "value", "position"),
    [
        ({"uniform": (1.0, 3.0)}, 1.5, 0.25),
        ({"loguniform": (1e-4, 1e-2)}, 1e-3, 0.5),
        ({"randint": (8, 12)}, 11, 0.75),
        ({"quniform": (0.0, 0.4, 0.1)}, 0.3, 0.75),
        ({"choice": (256, 32, 64)}, 64, 0.5),
        ({"choice": ("moby", {"hardest": 64}, None)}, None, 1.0),
        ({"grid": ("moby",)}, "moby", 0.5),
    ],
)
def test_position_by_form(form, value, position):
    assert unit_position(DimensionSpec(**form), value) == pytest.approx(position)


def test_a_value_that_the_key_does_not_have_is_nowhere():
    assert math.isnan(unit_position(DimensionSpec(choice=(1, 2)), 3))


def test_numbers_are_sorted_and_anything_else_stays_as_given():
    assert in_their_order((3, 1, 2.5)) == [1, 2.5, 3]
    assert in_their_order((True, False)) == [True, False]
    assert in_their_order(("b", "a")) == ["b", "a"]
