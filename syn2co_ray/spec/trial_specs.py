"""A point of a search as an ordinary job, and the check of all points before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from .dotted import set_at
from .errors import Fault, SpecError
from .points import Point, corner_points, points_of
from .search import SearchSpec

Build = Callable[[dict[str, Any]], Any]
"""Plain values -> a valid spec (`load.build_spec`)."""


def trial_values(search: SearchSpec, point: Point) -> dict[str, Any]:
    """The values of the base's file with those of the point.

    Raises:
        SpecError: the base has no such list item.
    """
    values = search.training.model_dump(mode="json", exclude_unset=True)
    for key, value in point.items():
        # Sections are copied: later keys may go below them.
        fault = set_at(values, key, json.loads(json.dumps(value)))
        if fault is not None:
            raise SpecError([fault])
    return values


def point_in_words(point: Point) -> str:
    """For messages and tables: `method.temperature=0.1 train.epochs=20`."""
    return " ".join(f"{key}={_in_words(value)}" for key, value in point.items())


def _in_words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, separators=(", ", ": ")).replace('"', "") if value is not None else "null"


def faults_of_points(search: SearchSpec, build: Build) -> list[Fault]:
    """What the base's spec refuses: of every random or grid point, and of the ends of every key."""
    found: dict[tuple[str, str], Fault] = {}
    refused: dict[tuple[str, str], int] = {}
    for point in [*corner_points(search.space), *points_of(search)]:
        try:
            build(trial_values(search, point))
        except SpecError as error:
            for fault in error.faults:
                key = (fault.where, fault.allowed)
                refused[key] = refused.get(key, 0) + 1
                found.setdefault(key, _at_the_space(fault, point))
    return [
        Fault(fault.where, fault.got + _others(refused[key] - 1), fault.allowed, fault.next_step)
        for key, fault in found.items()
    ]


def _others(count: int) -> str:
    return f" (and at {count} other points)" if count else ""


def _at_the_space(fault: Fault, point: Point) -> Fault:
    """The fault of a trial's spec as one of the search: which key, which value."""
    for key in _nearest_keys(fault.where, point):
        words = point_in_words({key: point[key]})
        return Fault(f"space.{key}", f"{words}: {fault.where}: {fault.got}", fault.allowed, fault.next_step)
    words = point_in_words(point)
    return Fault("space", f"{words}: {fault.where}: {fault.got}", fault.allowed, fault.next_step)


def _nearest_keys(where: str, point: Point) -> Iterator[str]:
    """Keys of the point that the place of a fault is at, below, or above; the nearest first."""
    yield from (key for key in point if key == where)
    yield from (key for key in point if where.startswith(f"{key}."))
    yield from (key for key in point if key.startswith(f"{where}."))
