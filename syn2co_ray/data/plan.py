"""The plan: for (seed, epoch), which records make up every global step, in which order.

The law of the project: step t trains on the same records whatever the number of workers, actors or
restarts. The plan is a pure function of the seed, the step size and the sources' fragment sizes, so
a position in it is one integer, the global step.

How an epoch is laid out:

1. Each source is a stream of records: its fragments in an order drawn for (seed, epoch, source,
   pass), the rows of a fragment in file order. A source that its share exhausts starts a new pass.
2. Step t takes records [Q_s(t), Q_s(t+1)) of source s. The quotas Q_s are rounded cumulative
   shares, so every step holds each source's share to within one record, and no rounding adds up.
3. A window is a run of whole steps of about `window_images` records. Inside it each source's
   records are permuted; then each step's records are permuted, so sources mix within the step.

A live source (`LivePool`) has no fixed records: its stream runs on through all epochs, in passes over a
pool of shards. The plan says which *place* of which pass a record has; which shard is in that place is
found when the pass is read (see `data.live`).

A window is the unit of reading. Its borders fall on steps, not on fragments, so neighbouring windows
may both read a border fragment: with F fragments a window, 1/F more bytes at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from ..spec.source import ShareSchedule, share_in
from .randomness import named_generator


@dataclass(frozen=True)
class FragmentRead:
    """Rows (int64, numbers inside the fragment) to take from one fragment of one source."""

    source: int
    fragment: int
    rows: np.ndarray


@dataclass(frozen=True)
class WindowPlan:
    """What to read for a window, and how its steps are put together.

    `take[i]` is the position, in the concatenation of all reads, of the record at place
    i = step_in_window * images_per_step_global + slot; `repeat[i]` says how often the record's source
    was passed through before in this epoch (0 the first time).
    """

    epoch: int
    first_step: int
    steps: int
    reads: list[FragmentRead]
    take: np.ndarray
    repeat: np.ndarray


@dataclass(frozen=True)
class LivePool:
    """The pool of a live source: every pass goes through `shards` files of `images_per_shard` records.

    Fragment number = pass * shards + place.
    """

    shards: int
    images_per_shard: int

    @property
    def images(self) -> int:
        return self.shards * self.images_per_shard


@dataclass(frozen=True)
class Plan:
    """Order of all records of a run.

    Attributes:
        seed: the job's seed.
        epochs: length of the run.
        images_per_step_global: B, records of one step over all workers.
        window_images: records that are shuffled together, about.
        fragment_rows: per stored source, int array (fragments,) with the rows of each fragment.
        shares: per source, its part of every step (by epoch, where it follows a schedule), or None for its
            part of all records.
        images_per_epoch: records of an epoch (whole steps of it are used), or None for all stored records.
        live: pool of the live source, which is numbered after the stored ones, or None.
    """

    seed: int
    epochs: int
    images_per_step_global: int
    window_images: int
    fragment_rows: Sequence[np.ndarray]
    shares: Sequence[float | ShareSchedule | None] = ()
    images_per_epoch: int | None = None
    live: LivePool | None = None
    _orders: dict[int, tuple[tuple[int, int], np.ndarray, np.ndarray]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __getstate__(self) -> dict[str, Any]:
        # Drawn orders stay behind: with millions of fragments they outweigh everything else that travels.
        return {**self.__dict__, "_orders": {}}

    @cached_property
    def records(self) -> list[int]:
        """Records of each stored source."""
        return [int(rows.sum()) for rows in self.fragment_rows]

    def shares_in(self, epoch: int) -> list[Fraction]:
        """Share of each source in an epoch, exact."""
        given = [share_in(share, epoch) for share in self.shares if share is not None]
        return [share / sum(given) for share in given] or [
            Fraction(count, sum(self.records)) for count in self.records
        ]

    @cached_property
    def steps_per_epoch(self) -> int:
        return (self.images_per_epoch or sum(self.records)) // self.images_per_step_global

    @cached_property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    @cached_property
    def steps_per_window(self) -> int:
        return min(self.steps_per_epoch, max(1, self.window_images // self.images_per_step_global))

    @cached_property
    def windows_per_epoch(self) -> int:
        return -(-self.steps_per_epoch // self.steps_per_window)

    @property
    def total_windows(self) -> int:
        return self.windows_per_epoch * self.epochs

    def window_of_step(self, step: int) -> int:
        """Number of the window (over the whole run) that holds a global step."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        return epoch * self.windows_per_epoch + step_in_epoch // self.steps_per_window

    def quotas(self, shares: Sequence[Fraction], step_in_epoch: int) -> list[int]:
        """Q_s(t): records of each source in the first t steps of an epoch.

        Source after source takes its rounded part of what the sources before it left, so that the
        quotas add up to t B and never fall as t grows.
        """
        left = step_in_epoch * self.images_per_step_global
        share_left = Fraction(1)
        quotas = []
        for share in shares[:-1]:
            part = left * share / share_left + Fraction(1, 2) if share else Fraction(0)
            quotas.append(part.numerator // part.denominator)
            left -= quotas[-1]
            share_left -= share
        return [*quotas, left]

    def window(self, number: int) -> WindowPlan:
        """The window with this number over the whole run (pure: the same every time it is asked)."""
        epoch, window_in_epoch = divmod(number, self.windows_per_epoch)
        first = window_in_epoch * self.steps_per_window
        steps = min(self.steps_per_window, self.steps_per_epoch - first)
        shares = self.shares_in(epoch)
        quotas = [self.quotas(shares, first + step) for step in range(steps + 1)]
        reads: list[FragmentRead] = []
        rows_of_source, repeats_of_source = [], []
        read_rows = 0
        for source in range(len(quotas[0])):
            stream = self._live_stream if source == self.live_source else self._stream
            found, repeat = stream(epoch, source, quotas[0][source], quotas[-1][source])
            shuffle = named_generator(self.seed, "rows", epoch, source, window_in_epoch).permutation(
                len(repeat)
            )
            rows_of_source.append(read_rows + shuffle)
            repeats_of_source.append(repeat[shuffle])
            reads += found
            read_rows += len(repeat)
        take, repeat = self._interleave(epoch, first, quotas, rows_of_source, repeats_of_source)
        return WindowPlan(epoch, epoch * self.steps_per_epoch + first, steps, reads, take, repeat)

    def _interleave(
        self,
        epoch: int,
        first: int,
        quotas: list[list[int]],
        rows_of_source: list[np.ndarray],
        repeats_of_source: list[np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        take, repeat = [], []
        for step in range(len(quotas) - 1):
            spans = [
                slice(quotas[step][s] - quotas[0][s], quotas[step + 1][s] - quotas[0][s])
                for s in range(len(rows_of_source))
            ]
            slots = named_generator(self.seed, "slots", epoch, first + step).permutation(
                self.images_per_step_global
            )
            take.append(
                np.concatenate([rows[span] for rows, span in zip(rows_of_source, spans, strict=True)])[slots]
            )
            repeat.append(
                np.concatenate([rows[span] for rows, span in zip(repeats_of_source, spans, strict=True)])[
                    slots
                ]
            )
        return np.concatenate(take), np.concatenate(repeat)

    def _stream(
        self, epoch: int, source: int, start: int, stop: int
    ) -> tuple[list[FragmentRead], np.ndarray]:
        """Records [start, stop) of a source's stream in an epoch, and the pass each belongs to."""
        count = self.records[source]
        reads: list[FragmentRead] = []
        repeats = []
        while start < stop:
            pass_number, offset = divmod(start, count)
            take = min(stop - start, count - offset)
            reads += self._pass_slice(epoch, source, pass_number, offset, offset + take)
            repeats.append(np.full(take, pass_number, dtype=np.int32))
            start += take
        return reads, np.concatenate(repeats) if repeats else np.zeros(0, dtype=np.int32)

    @property
    def live_source(self) -> int | None:
        """Number of the live source."""
        return None if self.live is None else len(self.fragment_rows)

    def live_images_before(self, step: int) -> int:
        """Records of the live source in the steps before a global step of the run."""
        if self.live is None:
            return 0
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        whole = sum(self._live_images_of_epochs[:epoch])
        return whole + self.quotas(self.shares_in(epoch), step_in_epoch)[-1]

    @cached_property
    def _live_images_of_epochs(self) -> list[int]:
        epochs = range(self.epochs)
        return [self.quotas(self.shares_in(epoch), self.steps_per_epoch)[-1] for epoch in epochs]

    @cached_property
    def live_passes(self) -> int:
        """Passes over the pool that the run begins."""
        assert self.live is not None
        return -(-sum(self._live_images_of_epochs) // self.live.images)

    @cached_property
    def live_passes_ahead(self) -> int:
        """Passes that begin within the two windows after any position: one that is trained on, one that is
        read meanwhile."""
        assert self.live is not None
        share = max(self.shares_in(epoch)[-1] for epoch in range(self.epochs))
        images = int(2 * share * self.steps_per_window * self.images_per_step_global) + 1
        return -(-images // self.live.images)

    def _live_stream(
        self, epoch: int, source: int, start: int, stop: int
    ) -> tuple[list[FragmentRead], np.ndarray]:
        """As `_stream`; the place in its pass tells uses of one image apart, which may be in several."""
        assert self.live is not None
        before = self.live_images_before(epoch * self.steps_per_epoch)
        reads: list[FragmentRead] = []
        at, stop, rows_each = before + start, before + stop, self.live.images_per_shard
        while at < stop:
            number, offset = divmod(at, self.live.images)
            order = named_generator(self.seed, "live", source, number).permutation(self.live.shards)
            first, row = divmod(offset, rows_each)
            take = min(stop - at, rows_each - row)
            fragment = number * self.live.shards + int(order[first])
            reads.append(FragmentRead(source, fragment, np.arange(row, row + take)))
            at += take
        repeats = [np.full(len(read.rows), read.fragment, dtype=np.int32) for read in reads]
        return reads, np.concatenate(repeats) if repeats else np.zeros(0, dtype=np.int32)

    def _pass_slice(
        self, epoch: int, source: int, pass_number: int, start: int, stop: int
    ) -> list[FragmentRead]:
        order, ends = self._fragment_order(epoch, source, pass_number)
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop, side="left"))
        reads = []
        for place in range(first, last + 1):
            fragment = int(order[place])
            begin = int(ends[place]) - int(self.fragment_rows[source][fragment])
            rows = np.arange(max(start, begin) - begin, min(stop, int(ends[place])) - begin)
            if len(rows):
                reads.append(FragmentRead(source, fragment, rows))
        return reads

    def _fragment_order(self, epoch: int, source: int, pass_number: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of a source's fragments in one pass, and the running count of records after each."""
        name = (epoch, pass_number)
        kept = self._orders.get(source)
        if kept is None or kept[0] != name:
            # One order a source is enough: only windows at a pass's border need two.
            rows = self.fragment_rows[source]
            order = named_generator(self.seed, "fragments", epoch, source, pass_number).permutation(len(rows))
            order = order.astype(np.int32)
            kept = self._orders[source] = name, order, np.cumsum(rows[order])
        return kept[1:]
