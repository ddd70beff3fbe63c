"""ASHA that promotes (Li et al. 2020, arXiv 1810.05934, algorithm 2).

A trial goes on past a rung when it is among the best 1/reduction_factor of all that have come to that rung.
One that is not is stopped, and taken up again from its checkpoint when, with those that came after it, it is.
So the first trials, which there is nothing to compare with, do not train to their end for that alone; the
price is a start for each that is taken up again. The paper's stream of trials has no end; when ours has ended
and none has trained to its last epoch, the best of those that trained longest goes on.

All that is decided follows from the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..spec.points import number_of_points
from ..spec.search import SchedulerSpec, SearchSpec
from .early_stopping import rungs_of
from .records import Evaluation, Record


class Promotion:
    """Judges trials by their records, and marks there which rung they may pass."""

    def __init__(self, search: SearchSpec, known: Mapping[int, Record]) -> None:
        """`known` is looked at anew at each question."""
        assert isinstance(search.scheduler, SchedulerSpec)
        self.rungs = rungs_of(search.scheduler, search.training.train.epochs)
        self.reduction_factor = search.scheduler.reduction_factor
        self.maximises, self.known = search.maximises, known

    def tell_again(self, records: Iterable[Record]) -> set[int]:
        """Those of the records that were to end when the driver died."""
        return {record.number for record in records if not record.has_ended and self.stops(record, ())}

    def stops(self, record: Record, new: Iterable[Evaluation]) -> bool:
        """Whether a trial is to end, at least for now; the record has the new evaluations."""
        rung = self._rung(record)
        if rung > record.passed_epochs and record.number in self._best_of(rung):
            record.passed_epochs = rung
        return rung > record.passed_epochs

    def to_go_on(self) -> list[int]:
        """Stopped trials that are among the best of their rung by now, those that trained longest first."""
        stopped = {n: self._rung(record) for n, record in self.known.items() if record.status == "stopped"}
        best = {rung: self._best_of(rung) for rung in self.rungs}
        found = [number for number, rung in stopped.items() if number in best.get(rung, ())]
        return sorted(found, key=lambda number: (-stopped[number], number))

    def last_one(self) -> list[int]:
        """When all have ended: the trial that is to train to its end, as none has."""
        if any(record.status == "finished" for record in self.known.values()):
            return []
        stopped = [number for number, record in self.known.items() if record.status == "stopped"]
        longest = max((self._rung(self.known[number]) for number in stopped), default=0)
        return [number for number in self._ranked(longest) if number in stopped][:1]

    def goes_on(self, record: Record) -> None:
        """A stopped trial is taken up again."""
        record.passed_epochs = self._rung(record)

    def _rung(self, record: Record) -> int:
        """The last rung that a trial has come to; 0 before the first."""
        trained = record.evaluations[-1].epoch if record.evaluations else 0
        return max((rung for rung in self.rungs if rung <= trained), default=0)

    def _best_of(self, rung: int) -> set[int]:
        """The best 1/reduction_factor, rounded down, of those that came to a rung."""
        ranked = self._ranked(rung)
        return set(ranked[: len(ranked) // self.reduction_factor])

    def _ranked(self, rung: int) -> list[int]:
        """Those that came to a rung and have not failed, the best first; of equals the earlier."""
        values = {
            number: next(each.value for each in record.evaluations if each.epoch >= rung)
            for number, record in self.known.items()
            if record.status != "failed" and rung and self._rung(record) >= rung
        }
        sign = -1 if self.maximises else 1
        return sorted(values, key=lambda number: (sign * values[number], number))


def trials_left(search: SearchSpec, known: Mapping[int, Record]) -> list[int]:
    """Trials that are to be taken up again, then those that are to be started or run."""
    numbers = range(number_of_points(search) * search.seeds)
    waiting = [number for number in numbers if number not in known or not known[number].has_ended]
    if not isinstance(search.scheduler, SchedulerSpec) or search.scheduler.name != "asha_promotion":
        return waiting
    promotion = Promotion(search, known)
    return [*promotion.to_go_on(), *waiting] or promotion.last_one()
