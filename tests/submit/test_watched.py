"""A stop that nobody is there to hear."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
from rich.console import Console

from syn2co_ray.spec.errors import RunInterrupted
from syn2co_ray.submit.progress import Progress
from syn2co_ray.submit.watched import watched


class RunWithoutRoom:
    """Its node has gone; room comes after so many looks, if at all, and with it a worker that hears."""

    def __init__(self, room_after_looks: int) -> None:
        self.looks, self.room_after_looks, self.asked = 0, room_after_looks, False

    def wait(self, timeout_s: float) -> bool:
        return self.asked and self.looks > self.room_after_looks

    def ask_to_stop(self) -> None:
        self.asked = True

    def look(self) -> dict[str, Any]:
        self.looks += 1
        waits = self.looks <= self.room_after_looks
        return {"starts": [], "progress": {}, "evaluations": [], "epoch_means": [], "warnings": [],
                "marks": {}, "waits_for_room": waits}  # fmt: skip


def look_at(run: RunWithoutRoom) -> dict[str, Any]:
    stop = threading.Event()
    stop.set()
    return watched(run, Progress(Console(file=io.StringIO())), stop)  # type: ignore[arg-type]


def test_a_stop_is_heard_while_there_is_no_room_for_workers():
    with pytest.raises(RunInterrupted, match="no room for workers; next: run the same command to go on"):
        look_at(RunWithoutRoom(room_after_looks=1000))


def test_workers_that_are_there_publish_a_checkpoint_first():
    run = RunWithoutRoom(room_after_looks=0)
    assert not look_at(run)["waits_for_room"]
    assert run.asked
