"""The list of rules, and how they are asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import Fault

RULES: list[Callable[..., Iterator[Fault]]] = []


def rule(check: Callable[..., Iterator[Fault]]) -> Callable[..., Iterator[Fault]]:
    RULES.append(check)
    return check


def cross_field_faults(sections: dict[str, Any]) -> list[Fault]:
    """Faults of all rules whose sections are present in `sections` (name -> valid section)."""
    faults: list[Fault] = []
    for check in RULES:
        needed = list(inspect.signature(check).parameters)
        if all(name in sections for name in needed):
            faults += check(**{name: sections[name] for name in needed})
    return faults
