"""Faults of specs that come from a command's options, not from a file."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from .errors import Fault, SpecError


def option_faults(error: ValidationError, named_otherwise: Mapping[str, str], command: str) -> SpecError:
    """All faults, each at the option it came from.

    Args:
        error: what pydantic found.
        named_otherwise: field -> option, where that is not `--` and the field's name.
        command: its word, as the place of the faults.
    """
    faults = []
    for item in error.errors():
        field = str(item["loc"][-1])
        option = named_otherwise.get(field, "--" + field.replace("_", "-"))
        faults.append(Fault(option, f"got {item['input']!r}", item["msg"]))
    return SpecError(faults, command)
