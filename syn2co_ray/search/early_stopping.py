"""Which trials to stop, by Ray Tune's schedulers, asked as Tune asks them.

They are told every trial's evaluations in the order in which they came, so that a resumed search brings
them to where they were by telling them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..spec.search import SchedulerSpec
from .records import Evaluation, Record


@dataclass(frozen=True)
class _TuneTrial:
    """All that a scheduler wants to know of a trial."""

    trial_id: str


class _TuneController:
    """Tune's schedulers ask who waits, so as to let trials take turns: none does."""

    def get_live_trials(self) -> list[Any]:
        return []


class EarlyStopping:
    """One scheduler, or for hyperband one for each first rung."""

    def __init__(self, spec: SchedulerSpec, epochs: int, maximises: bool) -> None:
        self.epochs = epochs
        self._rungs = [] if spec.name == "none" else rungs_of(spec, epochs)
        if spec.name != "hyperband":
            del self._rungs[1:]
        self._schedulers = [_scheduler(spec, epochs, rung, maximises) for rung in self._rungs]
        self._known: dict[int, tuple[Any, _TuneTrial]] = {}

    def tell_again(self, records: Iterable[Record]) -> set[int]:
        """What came in earlier commands; the trials that were to end then, whether they did or not."""
        told = [(e.at_unix_s, record.number, e) for record in records for e in record.evaluations]
        return {number for _, number, e in sorted(told, key=lambda item: item[:2]) if self._stops(number, e)}

    def stops(self, record: Record, new: Iterable[Evaluation]) -> bool:
        """Whether a trial is to end, now that these evaluations came."""
        decisions = [self._stops(record.number, evaluation) for evaluation in new]  # each is to be told
        return any(decisions)

    def goes_on(self, record: Record) -> None:
        """A stopped trial is taken up again: Tune's schedulers end trials for good."""
        raise AssertionError(f"trial {record.number} was stopped for good")

    def _stops(self, trial_number: int, evaluation: Evaluation) -> bool:
        if not self._schedulers:
            return False
        scheduler, trial = self._of(trial_number)
        epoch = evaluation.epoch
        result = {"epoch": epoch, "value": evaluation.value, "training_iteration": epoch}
        decision = scheduler.on_trial_result(_TuneController(), trial, result)
        # After its last epoch a trial ends by itself.
        return decision == "STOP" and epoch < self.epochs

    def _of(self, number: int) -> tuple[Any, _TuneTrial]:
        if number not in self._known:
            trial = _TuneTrial(f"{number:06d}")
            scheduler = self._schedulers[self._bracket(number)]
            scheduler.on_trial_add(_TuneController(), trial)
            self._known[number] = scheduler, trial
        return self._known[number]

    def _bracket(self, number: int) -> int:
        """In turn; the earlier a bracket's first rung, the more trials it gets, as in HyperBand."""
        last = self._rungs[-1]
        turns = [bracket for bracket, rung in enumerate(self._rungs) for _ in range(max(1, last // rung))]
        return turns[number % len(turns)]


def rungs_of(spec: SchedulerSpec, epochs: int) -> list[int]:
    """Epochs after which runs are compared, before the last."""
    rungs = [spec.grace_epochs]
    while rungs[-1] * spec.reduction_factor < epochs:
        rungs.append(rungs[-1] * spec.reduction_factor)
    return rungs


def _scheduler(spec: SchedulerSpec, epochs: int, first_rung: int, maximises: bool) -> Any:
    from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

    asked = {"time_attr": "epoch", "metric": "value", "mode": "max" if maximises else "min"}
    if spec.name == "median":
        return MedianStoppingRule(**asked, grace_period=first_rung)
    return AsyncHyperBandScheduler(
        **asked, max_t=epochs, grace_period=first_rung, reduction_factor=spec.reduction_factor
    )
