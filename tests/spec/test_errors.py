"""Errors cross process borders: every class must survive pickling with its four parts."""

from __future__ import annotations

import pickle

import pytest

from syn2co_ray.spec import errors
from syn2co_ray.spec.errors import Fault, SpecError, Syn2coError

CLASSES = [
    c
    for c in vars(errors).values()
    if isinstance(c, type) and issubclass(c, Syn2coError) and c is not SpecError
]


def test_the_tree_is_not_empty():
    assert len(CLASSES) >= 7


@pytest.mark.parametrize("error_class", CLASSES)
def test_error_survives_pickling(error_class):
    error = error_class("data.train", "got this", "that", "do so")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is error_class
    assert again.fault == error.fault
    assert str(again) == "data.train: got this; allowed: that; next: do so"


def test_spec_error_survives_pickling_with_all_faults():
    error = SpecError([Fault("a", "x", line=3), Fault("b", "y")], "job.yaml")
    again = pickle.loads(pickle.dumps(error))
    assert again.faults == error.faults
    assert str(again) == str(error)
    assert "job.yaml:3: a: x" in str(again)
