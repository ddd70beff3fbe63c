"""Which shards are in the pool of a live source in each pass: one number a pass, how many were let in so far.

Shards come in by number; the newest `pool_shards` of them are the pool. A pass is decided when training first
asks for it, and the decision is kept: a resumed run goes through the same shards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable

from ..spec.live import LiveSpec
from ..storage import Store, exists, publish_bytes, read_bytes

LEDGER_FILE = "_passes.json"


def shards_of_run(live: LiveSpec, passes: int) -> int:
    """Shards that a run of so many passes uses at most."""
    return live.pool_shards + live.shards_per_pass * (passes - 1)


class PoolLedger:
    """Decides passes and says what is to be made next.

    Args:
        live: the spec.
        passes: of the run.
        made: numbers of the shards that are there.
        decided: let in up to each pass, from an earlier start.
        keep: called with all decisions after each new one, before anybody hears of it.
    """

    def __init__(
        self,
        live: LiveSpec,
        passes: int,
        made: Iterable[int] = (),
        decided: Iterable[int] = (),
        keep: Callable[[list[int]], None] = lambda decided: None,
    ) -> None:
        self.live, self.shards = live, shards_of_run(live, passes)
        self.made, self.decided = set(made), list(decided)
        self._keep = keep
        self.late_passes = 0
        self._missing: set[int] = set()

    def places(self, number: int) -> list[int] | None:
        """Shard number in each place of a pass; None while some are not there."""
        while len(self.decided) <= number:
            let_in = self._let_in()
            if let_in is None:
                return None
            # Kept first: a decision that could not be kept is none, also if it is asked for again.
            self._keep([*self.decided, let_in])
            self.decided.append(let_in)
        pool = self._pool(self.decided[number])
        missing = [shard for shard in pool if shard not in self.made]
        self._missing.update(missing)
        return None if missing else [pool[place % len(pool)] for place in range(self.live.pool_shards)]

    def add(self, shard: int) -> None:
        """A shard is there."""
        self.made.add(shard)
        self._missing.discard(shard)

    def next_shards(self, being_made: Collection[int]) -> list[int]:
        """What to make now: first what a pass waits for, then at most one pass ahead."""
        missing = sorted(self._missing - set(being_made))
        ahead = range(self._newest, self._wanted_next())
        return missing + [shard for shard in ahead if shard not in self.made and shard not in being_made]

    def drop_before(self, number: int) -> list[int]:
        """Shards that neither this pass nor a later one needs; they count as not there from now on."""
        if number >= len(self.decided):
            return []
        first = self._pool(self.decided[number])[0]
        dropped = sorted(shard for shard in self.made if shard < first)
        self.made.difference_update(dropped)
        return dropped

    @property
    def ready(self) -> int:
        """Shards that are there for the next pass to let in."""
        return self._complete() - self._newest

    @property
    def _newest(self) -> int:
        return self.decided[-1] if self.decided else 0

    def _complete(self) -> int:
        """Shards let in, and those after them up to the first that is not there."""
        count = self._newest
        while count in self.made:
            count += 1
        return count

    def _wanted_next(self) -> int:
        """What the next pass would let in if all of it were there."""
        full = self.live.pool_shards
        if not self.decided:
            return min(full, self.shards)
        return min(max(full, self._newest + self.live.shards_per_pass), self.shards)

    def _let_in(self) -> int | None:
        wanted, complete = self._wanted_next(), self._complete()
        if self.live.when_late == "wait":
            # Not asked whether they are there: `places` waits for them, and the number is the same each time.
            return wanted
        if complete < min(self.live.floor_shards, wanted):
            return None
        self.late_passes += complete < wanted and bool(self.decided)
        return min(complete, wanted)

    def _pool(self, let_in: int) -> range:
        return range(max(0, let_in - self.live.pool_shards), let_in)


def read_decisions(store: Store) -> list[int]:
    """What an earlier start of the run decided."""
    return list(json.loads(read_bytes(store, LEDGER_FILE))) if exists(store, LEDGER_FILE) else []


def publish_decisions(store: Store, decided: list[int]) -> None:
    publish_bytes(store, LEDGER_FILE, json.dumps(decided).encode())
