"""A value at a dotted key of plain values."""

from __future__ import annotations

from typing import Any

from .errors import Fault


def set_at(values: dict[str, Any], dotted: str, value: Any) -> Fault | None:
    """Set the value at a dotted key, in place; list items are named by position. A fault if there is none."""
    node: Any = values
    path = dotted.split(".")
    *parents, last = path
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            if not _is_position(part, node):
                return _no_such_item(".".join(path[: depth + 1]), node)
            node = node[int(part)]
            continue
        if not isinstance(node.get(part), dict | list):
            # `train.workers: 2` is short for a mapping, so an override may go below a plain value.
            node[part] = {}
        node = node[part]
    if isinstance(node, list):
        if not _is_position(last, node):
            return _no_such_item(dotted, node)
        node[int(last)] = value
    else:
        node[last] = value
    return None


def _is_position(part: str, items: list[Any]) -> bool:
    return part.isdecimal() and int(part) < len(items)


def _no_such_item(dotted: str, items: list[Any]) -> Fault:
    return Fault(dotted, "no such list item", f"a position from 0 to {len(items) - 1}", "count from 0")
