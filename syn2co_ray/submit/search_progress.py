"""A search that can be followed: one table in a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from ..report.table import aligned
from ..search.leaderboard import ranking
from ..search.loop import Search, used_of_budget
from .progress import PLAIN_LINE_EVERY_S, LiveText, duration


class SearchProgress(LiveText):
    """Shows what a `Search` does."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last_line, self._last_line_at = "", float("-inf")

    def show(self, search: Search) -> None:
        """Update the table, or print the summary now and then, when it has changed."""
        line, now = summary_line(search), time.monotonic()
        if self.replace("\n".join([*running_lines(search), line])):
            return
        if line != self._last_line and now - self._last_line_at >= PLAIN_LINE_EVERY_S:
            self._last_line, self._last_line_at = line, now
            self.log(line)


def summary_line(search: Search) -> str:
    """How many trials are where, the best so far, the budget used, the time left."""
    counts = dict.fromkeys(("finished", "stopped", "failed"), 0)
    for record in search.known.values():
        if record.status in counts:
            counts[record.status] += 1
    waiting = len(search.left) - len(search.active)
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    parts = [f"trials: {told + ', ' if told else ''}{len(search.active)} running, {waiting} waiting"]
    best = next(
        (entry for entry in ranking(search.spec, search.known.values()) if entry.value is not None), None
    )
    if best is not None:
        parts.append(f"best {search.spec.metric} {best.value:.4g} (point {best.point_number}: {best.point})")
    parts += [
        f"{name} {used:.3g} of {most:g}"
        for name, used, most in used_of_budget(search.spec, search.wall_s, search.gpu_hours)
    ]
    left_s = time_left_s(search)
    if left_s is not None:
        parts.append(f"ETA {duration(left_s)}")
    return "  ".join(parts)


def running_lines(search: Search) -> list[str]:
    """A row for each trial that runs."""
    spec = search.spec
    judged = spec.judged_by if spec.metric == "linear" else spec.metric
    rows = [["trial", "point", "epoch", "loss", judged]]
    for active in search.active.values():
        progress: dict[str, Any] = getattr(active.run, "progress", {})
        record = active.record
        rows.append(
            [
                str(record.number),
                str(record.point_number),
                f"{progress['epoch'] + 1}/{progress['epochs']}" if progress else "starting",
                f"{progress['loss']:.4f}" if progress else "",
                f"{record.evaluations[-1].value:.4g}" if record.evaluations else "",
            ]
        )
    return aligned(rows)


def time_left_s(search: Search) -> float | None:
    """From the mean time of the trials that have ended; None before the first."""
    took = [record.wall_s for record in search.known.values() if record.has_ended and record.wall_s]
    if not took:
        return None
    each_s = sum(took) / len(took)
    done_s = sum(min(active.record.wall_s, each_s) for active in search.active.values())
    return max(0.0, len(search.left) * each_s - done_s) / search.concurrent
