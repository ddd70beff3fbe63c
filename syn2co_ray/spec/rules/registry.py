"""The list of rules, and how they are asked."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

from ..base import Section
from ..errors import Fault

RULES: list[Callable[..., Iterator[Fault]]] = []


def rule(check: Callable[..., Iterator[Fault]]) -> Callable[..., Iterator[Fault]]:
    RULES.append(check)
    return check


def cross_field_faults(sections: dict[str, Any]) -> list[Fault]:
    """Faults of all rules whose sections are present in `sections` (name -> valid section).

    Sections of different kinds of jobs may share a name: a rule runs for those of the class it says.
    """
    faults: list[Fault] = []
    for check in RULES:
        needed = list(inspect.signature(check).parameters)
        if all(name in sections for name in needed) and all(
            isinstance(sections[name], kind) for name, kind in _classes_of(check).items()
        ):
            faults += check(**{name: sections[name] for name in needed})
    return faults


@functools.cache
def _classes_of(check: Callable[..., Iterator[Fault]]) -> dict[str, type]:
    """Parameters whose annotation is a class of sections; unions are the rule's own matter."""
    hints = get_type_hints(check)
    hints.pop("return", None)
    return {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, Section)
    }
