"""What it cost that workers were started again: nodes that went or came, workers that failed."""

from __future__ import annotations

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
