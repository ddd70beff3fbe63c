"""What the processes of a detector's training agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ...train.context import TrainContext
from ...train.wish import Wish

Item = TypeVar("Item")


class Stopped(Exception):
    """The training was asked to stop; its checkpoint is whole."""


def own_part(items: Sequence[Item], ranks: TrainContext) -> Sequence[Item]:
    """This rank's share of what all ranks do together; as large as the others', or one less."""
    first, end = (rank * len(items) // ranks.world_size for rank in (ranks.rank, ranks.rank + 1))
    return items[first:end]


def heed(ranks: TrainContext, step: int, save: Callable[[], None] = lambda: None) -> None:
    """Do what rank 0 was asked for; every rank must call it at the same place.

    Args:
        ranks: all of them.
        step: steps done.
        save: leaves a checkpoint, if there is none of this step yet.

    Raises:
        Stopped: asked to.
    """
    wish = Wish(int(ranks.summed(ranks.wish())[0]))
    if wish is not Wish.GO_ON:
        save()
    if wish is Wish.STOP:
        raise Stopped
    if wish is Wish.PAUSE:
        ranks.pause(step)
