"""How long the stages of the stream worked for one rank, and for how long its training waited for them."""

from __future__ import annotations

from typing import Any

from ..data.stream import BlockWork
from .context import TrainContext


class StreamClock:
    """Counts in this start only: after another one there may be other workers and actors."""

    def __init__(self) -> None:
        self._sums = {"read_s": 0.0, "decode_s": 0.0, "augment_s": 0.0, "images": 0.0, "sides_px": 0.0}
        self._makers: set[str] = set()
        self._steps, self._elapsed_s, self._waited_s, self._fetch_s = 0, 0.0, 0.0, 0.0

    def count(self, work: BlockWork | None, step_time_s: float, waited_s: float, fetch_s: float) -> None:
        """A step, and the block it began, if it began one.

        Args:
            work: of that block.
            step_time_s: seconds of the whole step.
            waited_s: its seconds until all ranks had their records.
            fetch_s: its seconds until this rank had its own.
        """
        self._steps += 1
        self._elapsed_s += step_time_s
        self._waited_s += waited_s
        self._fetch_s += fetch_s
        if work is None:
            return
        self._makers.add(work.maker)
        for name in ("read_s", "decode_s", "augment_s", "images"):
            self._sums[name] += getattr(work, name)
        self._sums["sides_px"] += work.shorter_side_px * work.images

    def over_all(self, context: TrainContext) -> dict[str, Any] | None:
        """What `report.bound.StreamMeasured` holds, over all ranks; every rank must call it at one place.

        None when no block was begun.
        """
        gathered = context.gathered((self._sums, self._makers, self._fetch_s))
        sums = {name: sum(rank[name] for rank, _, _ in gathered) for name in self._sums}
        if not sums["images"]:
            return None
        return {
            "steps": self._steps,
            "workers": context.world_size,
            "elapsed_s": self._elapsed_s,
            "waited_s": self._waited_s,
            "fetch_s": max(fetch_s for _, _, fetch_s in gathered),
            **{name: sums[name] for name in ("read_s", "decode_s", "augment_s")},
            "makers": len(set().union(*(makers for _, makers, _ in gathered))),
            "shorter_side_px": sums["sides_px"] / sums["images"],
        }
