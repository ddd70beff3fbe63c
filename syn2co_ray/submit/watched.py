"""Looking at a run of workers from the driver until it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..train.workers_run import WorkersRun
from .progress import Progress
from .starts import RestartLines

POLL_S = 0.25


def watched(
    run: WorkersRun,
    progress: Progress,
    stop: threading.Event,
    also: Callable[[dict[str, Any]], None] = lambda seen: None,
) -> dict[str, Any]:
    """Show what a run does until it ends, and pass a stop on; returns what was seen last.

    Args:
        run: has been started.
        progress: shows it.
        stop: when set, the run is asked to stop.
        also: gets what is seen, before it is shown, and may add to it.
    """
    asked, restarts = False, RestartLines()

    def show(seen: dict[str, Any]) -> None:
        for line in restarts.new(seen["starts"]):
            progress.log(line)
        progress.show(seen)

    while not run.wait(POLL_S):
        if stop.is_set() and not asked:
            progress.log("stopping: publishing a checkpoint first (once more to stop at once)")
            run.ask_to_stop()
            asked = True
        seen = run.look()
        also(seen)
        show(seen)
    seen = run.look()
    show(seen)
    return seen
