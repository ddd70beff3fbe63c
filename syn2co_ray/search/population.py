"""Population-based training, in generations: who goes on from whom, with which values.

All members train to the same epoch and wait there, each with a published checkpoint; then the worst take over
from the best, and all go on. So members may take turns where there is room for fewer, and what happens is a
function of the search's seed and what was measured: a search that is resumed decides as one that was never
stopped. Nothing is remembered but the records: an exchange that a killed driver left half done is done again,
and what was done of it is kept.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..spec.errors import CheckpointError, SpecError
from ..spec.identity import run_name
from ..spec.job import PretrainSpec
from ..spec.points import Point, number_of_points
from ..spec.search import PopulationSpec, SearchSpec
from ..spec.trial_specs import point_in_words
from .mutation import mutated
from .records import Record, Takeover
from .trials import Trial, make_trial

HandOver = Callable[[PretrainSpec, PretrainSpec, int], None]
"""Job of the donor, job of the heir, epoch -> the heir's run has the donor's checkpoint of then."""
DRAWS_MAX = 20
"""Points that the base's spec refuses are drawn again, so often; then the donor's values stay."""


@dataclass(frozen=True)
class Exchange:
    """A trial of the worst, one of the best, and the values the former goes on with."""

    heir: int
    donor: int
    point: Point


class Population:
    """The members of a search with scheduler pbt."""

    def __init__(
        self, search: SearchSpec, rule: PopulationSpec, hand_over: HandOver, tell: Callable[[str], None]
    ) -> None:
        self.search, self.rule, self.hand_over, self.tell = search, rule, hand_over, tell
        self.epochs: int = search.training.train.epochs
        self._members = range(number_of_points(search))
        self._settled = 0

    def reached(self, known: Mapping[int, Record]) -> int:
        """Epochs that all members have trained that have not ended."""
        living = [n for n in self._members if n not in known or not known[n].has_ended]
        return min((known[n].paused_after_epochs if n in known else 0 for n in living), default=self.epochs)

    def border(self, known: Mapping[int, Record]) -> int | None:
        """Where the present generation pauses; None when it trains to the end."""
        border = self.reached(known) + self.rule.every_epochs
        return border if border < self.epochs else None

    def waits(self, record: Record | None, known: Mapping[int, Record]) -> bool:
        """Whether a member is at the border that others have yet to come to."""
        return record is not None and record.paused_after_epochs > self.reached(known)

    def exchange(self, known: Mapping[int, Record]) -> Iterator[Record]:
        """Once all are at a border: let the worst take over. Records that changed, one by one."""
        epoch = self.reached(known)
        if not self._settled < epoch < self.epochs:
            return
        if all(record.paused_after_epochs == epoch for record in known.values() if not record.has_ended):
            for each in exchanges(self.search, self.rule, epoch, known):
                record = known[each.heir]
                # Done by a command before this one.
                if record.since_epoch != epoch and not record.has_ended:
                    self._hand_over(each, epoch, known)
                    yield record
        self._settled = epoch

    def _hand_over(self, exchange: Exchange, epoch: int, known: Mapping[int, Record]) -> None:
        heir, donor = known[exchange.heir], known[exchange.donor]
        theirs = trial_of(self.search, donor)
        ours = make_trial(self.search, heir.number, exchange.point, since_epoch=epoch)
        try:
            self.hand_over(theirs.job, ours.job, epoch)
        except CheckpointError as error:
            heir.error = f"keeps its own weights after {epoch} epochs: {error}"
            self.tell(f"trial {heir.number} {heir.error}")
            return
        heir.lineage.append(
            Takeover(epoch, donor.number, donor.run, heir.run, dict(heir.point), dict(exchange.point))
        )
        heir.point, heir.run = exchange.point, run_name(ours.job)
        self.tell(f"trial {heir.number} goes on {takeover_in_words(heir.lineage[-1])}")


def trial_of(search: SearchSpec, record: Record, stop_after_epochs: int | None = None) -> Trial:
    """The trial of a record, with the values it trains with now."""
    return make_trial(
        search,
        record.number,
        record.point,
        since_epoch=record.since_epoch,
        stop_after_epochs=stop_after_epochs,
    )


def exchanges(
    search: SearchSpec, rule: PopulationSpec, epoch: int, known: Mapping[int, Record]
) -> list[Exchange]:
    """Truncation selection among all that have come to this border, also if they failed after it."""
    sign = -1.0 if search.maximises else 1.0
    members = [record for record in known.values() if record.paused_after_epochs >= epoch]

    def place(record: Record) -> tuple[float, int]:
        value = record.value_after(epoch)
        return (math.inf if value is None or not math.isfinite(value) else sign * value), record.number

    ranked = [record.number for record in sorted(members, key=place)]
    count = min(math.ceil(rule.quantile * len(ranked)), len(ranked) // 2)
    found = []
    for heir in ranked[len(ranked) - count :]:
        label = f"{search.seed} exchange {epoch} {heir}"
        donor = random.Random(label).choice(ranked[:count])
        found.append(Exchange(heir, donor, _explored(search, rule, known[donor], label)))
    return found


def _explored(search: SearchSpec, rule: PopulationSpec, donor: Record, label: str) -> Point:
    for attempt in range(DRAWS_MAX):
        point = mutated(search, rule, donor.point, f"{label} {attempt}")
        try:
            make_trial(search, donor.number, point)
        except SpecError:
            continue
        return point
    return donor.point


def takeover_in_words(takeover: Takeover) -> str:
    """`after 4 epochs from trial 2: method.temperature 0.1 -> 0.12`."""
    before, after = takeover.before, takeover.after
    changed = [
        f"{key} {_value_in_words(before, key)} -> {_value_in_words(after, key)}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    head = f"after {takeover.epoch} epochs from trial {takeover.donor}"
    return f"{head}: {', '.join(changed) or 'the same values'}"


def _value_in_words(point: Point, key: str) -> str:
    return point_in_words({key: point[key]}).partition("=")[2] if key in point else "as in the base"
