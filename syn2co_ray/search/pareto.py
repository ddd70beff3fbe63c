"""Points that no other point beats in all metrics at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def pareto_front(values: Mapping[int, Sequence[float]], directions: Sequence[bool]) -> set[int]:
    """Keys of the values that none dominates: as good in every metric and better in one.

    Args:
        values: metrics of each point.
        directions: of each metric, whether more is better.
    """
    signed = {
        number: tuple(value if more else -value for value, more in zip(metrics, directions, strict=True))
        for number, metrics in values.items()
    }
    return {number for number, own in signed.items() if not any(_beats(o, own) for o in signed.values())}


def _beats(other: Sequence[float], own: Sequence[float]) -> bool:
    pairs = list(zip(other, own, strict=True))
    return all(theirs >= ours for theirs, ours in pairs) and any(theirs > ours for theirs, ours in pairs)
