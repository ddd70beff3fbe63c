"""What the outside can ask of a running training, looked at before every step."""

from __future__ import annotations

from enum import IntEnum


class Wish(IntEnum):
    """In order of weight: of two, the later one holds."""

    GO_ON = 0
    CHECKPOINT = 1
    """Publish a checkpoint and go on: a node has been told that it will go."""
    PAUSE = 2
    """Publish a checkpoint and wait: the workers are about to be started again, more or elsewhere."""
    STOP = 3
    """Publish a checkpoint and end."""
