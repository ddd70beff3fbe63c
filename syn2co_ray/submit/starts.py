"""What it cost that workers were started again: nodes that went or came, workers that failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .progress import duration


def told_starts(starts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Starts of the workers in this command, from the board's notes, as results.json holds them.

    Seconds are counted from the last step before: until the failure was noticed, until the first step after,
    and `replayed_steps` were done twice.
    """
    told = []
    for start in starts:
        if start["first_step_at"] is None:
            continue
        before = start["last_step_before_at"]
        noticed = start["failed_at"] or before
        told.append(
            {
                "reason": start["reason"],
                "workers": start["workers"],
                "step": start["first_step"],
                "replayed_steps": max(0, start["last_step_before"] - start["first_step"]),
                "noticed_after_s": noticed - before if before else 0.0,
                "lost_s": start["first_step_at"] - before if before else 0.0,
            }
        )
    return told


def start_line(start: dict[str, Any]) -> str:
    """One restart, in words."""
    return (
        f"restarted at step {start['step']} with {start['workers']} workers ({start['reason']}): "
        f"{duration(start['lost_s'])} lost, {duration(start['noticed_after_s'])} of them until noticed, "
        f"{start['replayed_steps']} steps done again"
    )


class RestartLines:
    """What to say of restarts, each thing once: that one begins, and after its first step what it cost."""

    def __init__(self) -> None:
        self._begun = self._told = 0

    def new(self, starts: list[dict[str, Any]]) -> Iterator[str]:
        """Lines that are due now, from the board's notes."""
        for start in starts[self._begun :]:
            if start["reason"]:
                yield f"{start['reason']}: the workers start again from step {start['first_step']}"
        self._begun = len(starts)
        told = told_starts(starts)
        yield from (start_line(start) for start in told[self._told :] if start["reason"])
        self._told = len(told)
