"""What one rank alone meets, told to all of them: none then waits in a collective for one that has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..spec.errors import Syn2coError
from .context import TrainContext


class RankFaults:
    """Keeps this rank's first fault until the next agreement of all ranks."""

    def __init__(self, context: TrainContext) -> None:
        self.context = context
        self.own: Syn2coError | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """For what one rank does while the others do something else."""
        try:
            yield
        except Syn2coError as error:
            self.own = self.own or error

    def raise_together(self) -> None:
        """Raise, on every rank, what any rank has met; every rank must call it at the same place."""
        if self.context.summed(self.own is not None)[0]:
            self.raise_first()

    def raise_first(self) -> None:
        """Raise, on every rank, the fault of the lowest rank that has one; some rank must have one."""
        raise next(error for error in self.context.gathered(self.own) if error is not None)
