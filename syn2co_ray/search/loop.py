"""The search itself: start trials while there is room, listen, stop, try again, until all have ended.

It knows nothing of Ray: a `Starter` gives it runs, and the clock is an argument, so that tests play through
hours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ..spec.errors import SpecError
from ..spec.identity import run_name
from ..spec.points import number_of_points
from ..spec.search import PopulationSpec, SchedulerSpec, SearchSpec
from ..spec.trial_specs import point_in_words
from .early_stopping import EarlyStopping
from .population import HandOver, Population
from .promotion import Promotion, trials_left
from .records import Evaluation, Record, Records, record_of
from .searchers import point_of
from .trials import Trial, make_trial


@dataclass(frozen=True)
class Ended:
    """How a start of a run ended.

    Attributes:
        status: finished, interrupted (asked to stop: its checkpoint is whole), paused (the same, where the
            trial was to pause), or failed.
        evaluations: by epoch, of the whole run, what the search judges by (`SearchSpec.judged_by`).
        value: the search's (first) metric after the last epoch, as measured by the run: before any division
            by GPU-hours, and None where the search counts it itself (gpu_hours, wall_hours).
        values: the same of all metrics, where the search has several.
        error: of a failed one, in words.
    """

    status: Literal["finished", "interrupted", "paused", "failed"]
    evaluations: dict[int, float] = field(default_factory=dict)
    value: float | None = None
    error: str = ""
    values: dict[str, float | None] = field(default_factory=dict)


class Run(Protocol):
    """A training under way."""

    def evaluations(self) -> dict[int, float]:
        """What the search judges by, by epoch, of this start."""

    def gpus(self) -> float:
        """GPUs that it holds now."""

    def ask_to_stop(self) -> None:
        """Publish a checkpoint and end."""

    def ended(self) -> Ended | None:
        """None while it runs."""


CLOCK_EVERY_S = 30.0
"""What a killed driver's budget of time, and each trial's hours, may lack."""

Starter = Callable[[Trial], Run]
Tell = Callable[[str], None]


@dataclass
class _Active:
    trial: Trial
    record: Record
    run: Run
    stopping: bool = False


class Search:
    """A search from its records to its end; `step` now and then until it returns False."""

    def __init__(
        self,
        spec: SearchSpec,
        records: Records,
        start: Starter,
        concurrent: int,
        now_s: float,
        tell: Tell,
        hand_over: HandOver | None = None,
    ) -> None:
        self.spec, self.records, self.start, self.tell = spec, records, start, tell
        self.concurrent = concurrent
        self.known = records.load()
        self.closing = ""
        """Why no further trial is started: empty, stopped, or which budget is used up."""
        self.active: dict[int, _Active] = {}
        self._before_s = records.wall_s()
        self._started_at_s = self._looked_at_s = self._saved_at_s = now_s
        train = spec.training.train
        self.population: Population | None = None
        if spec.population is not None:
            if hand_over is None:
                raise ValueError("a population needs a way to hand checkpoints over")
            self.population = Population(spec, spec.population, hand_over, tell)
        stopping = SchedulerSpec() if isinstance(spec.scheduler, PopulationSpec) else spec.scheduler
        self.early_stopping = (
            Promotion(spec, self.known)
            if stopping.name == "asha_promotion"
            else EarlyStopping(stopping, train.epochs, spec.maximises)
        )
        self._to_stop = self.early_stopping.tell_again(self.known.values())

    @property
    def trials(self) -> int:
        return number_of_points(self.spec) * self.spec.seeds

    @property
    def wall_s(self) -> float:
        """Of all commands that worked on this search."""
        return self._before_s + self._looked_at_s - self._started_at_s

    @property
    def gpu_hours(self) -> float:
        return sum(record.gpu_hours for record in self.known.values())

    @property
    def left(self) -> list[int]:
        """Trials that are to be started or are under way, in order."""
        return trials_left(self.spec, self.known)

    def step(self, now_s: float) -> bool:
        """Look at all runs once; False when nothing runs any more and nothing is to be started."""
        passed_s, self._looked_at_s = now_s - self._looked_at_s, now_s
        for active in list(self.active.values()):
            self._look(active, passed_s, now_s)
        if not self.closing:
            self._close_if_budget_is_used()
        if not self.closing and self.population:
            for record in self.population.exchange(self.known):
                self._keep(record)
        while not self.closing and len(self.active) < self.concurrent:
            number = self._next()
            if number is None:
                break
            self._start(number)
        if not self.active or now_s - self._saved_at_s >= CLOCK_EVERY_S:
            self._saved_at_s = now_s
            self.records.save_wall_s(self.wall_s)
            for active in self.active.values():  # their hours, which a budget may count
                self.records.save(active.record)
        return bool(self.active)

    def close(self, why: str) -> None:
        """Start nothing more; what runs publishes a checkpoint and stops."""
        if not self.closing:
            self.closing = why
            for active in self.active.values():
                active.run.ask_to_stop()

    def _next(self) -> int | None:
        """The first trial that can be started."""
        startable = (number for number in self.left if number not in self.active)
        if self.population is not None:
            waits, known = self.population.waits, self.known
            startable = (number for number in startable if not waits(known.get(number), known))
        return next(startable, None)

    def _start(self, number: int) -> None:
        point_number = number // self.spec.seeds
        point = point_of(self.spec, point_number, self.known)
        pause = self.population.border(self.known) if self.population else None
        since = self.known[number].since_epoch if number in self.known else 0
        try:
            trial = make_trial(self.spec, number, point, since_epoch=since, stop_after_epochs=pause)
        except SpecError as error:
            # Only points that Optuna suggests are not known before.
            seed = self.spec.training.seed + number % self.spec.seeds
            refused = Record(number, point_number, point, seed, "", "failed", error=str(error))
            self._keep(refused)
            self.tell(f"trial {number} refused: {error}")
            return
        record = self.known.get(number) or record_of(trial, run_name(trial.job))
        goes_on = number in self.known
        if record.status == "stopped":
            self.early_stopping.goes_on(record)
        record.status = "running"
        self._keep(record)
        self.tell(f"trial {number} {'goes on' if goes_on else 'starts'}: {trial_in_words(self.spec, trial)}")
        active = self.active[number] = _Active(trial, record, self.start(trial))
        if number in self._to_stop:
            self._to_stop.remove(number)
            # The driver died in between: it starts only to leave its checkpoint and its page.
            self._ask_to_stop_early(active)

    def _look(self, active: _Active, passed_s: float, now_s: float) -> None:
        record, ended = active.record, active.run.ended()
        record.wall_s += passed_s
        record.gpu_hours += active.run.gpus() * passed_s / 3600
        evaluations = ended.evaluations if ended else active.run.evaluations()
        new = record.add([self._evaluation(record, *item, now_s) for item in evaluations.items()])
        stop = self.early_stopping.stops(record, new)
        if stop and not ended and not active.stopping:
            self._ask_to_stop_early(active)
        if ended:
            del self.active[record.number]
            self._end(active, ended)
        if ended or new:
            self._keep(record)

    def _ask_to_stop_early(self, active: _Active) -> None:
        active.stopping = True
        active.run.ask_to_stop()

    def _evaluation(self, record: Record, epoch: int, measured: float, now_s: float) -> Evaluation:
        value = counted(record, self.spec.metric, measured)
        assert value is not None
        return Evaluation(epoch, value, now_s)

    def _end(self, active: _Active, ended: Ended) -> None:
        record = active.record
        if ended.status == "failed":
            record.failures += 1
            record.error = ended.error
            again = record.failures <= self.spec.retries
            record.status = "interrupted" if again else "failed"
            self.tell(f"trial {record.number} failed{', is tried again' if again else ''}: {ended.error}")
            return
        record.status = ended.status
        if ended.status == "interrupted" and active.stopping:
            record.status = "stopped"
        if ended.status == "paused":
            assert active.trial.stop_after_epochs is not None
            record.paused_after_epochs = active.trial.stop_after_epochs
        if ended.status == "finished":
            record.value = counted(record, self.spec.metric, ended.value)
            record.values = {name: counted(record, name, value) for name, value in ended.values.items()}
        elif record.evaluations and self.spec.metric != "linear":
            record.value = record.evaluations[-1].value
        epochs = f" after {record.evaluations[-1].epoch} epochs" if record.evaluations else ""
        value = f", {self.spec.metric} {record.value:.4g}" if record.value is not None else ""
        self.tell(f"trial {record.number} {record.status}{epochs}{value}")

    def _keep(self, record: Record) -> None:
        self.known[record.number] = record
        self.records.save(record)

    def _close_if_budget_is_used(self) -> None:
        for name, used, most in used_of_budget(self.spec, self.wall_s, self.gpu_hours):
            if used >= most:
                self.close(f"budget.{name} of {most:g} is used up")


def counted(record: Record, metric: str, measured: float | None) -> float | None:
    """A metric from what its run measured and what the search counts."""
    if metric == "gpu_hours":
        return record.gpu_hours
    if metric == "wall_hours":
        return record.wall_s / 3600
    if metric == "knn_per_gpu_hour" and measured is not None:
        return measured / max(record.gpu_hours, 1e-9)
    return measured


def used_of_budget(spec: SearchSpec, wall_s: float, gpu_hours: float) -> list[tuple[str, float, float]]:
    """Name, used, most of each limit that is given."""
    budget = spec.budget
    used = {
        "wall_hours": wall_s / 3600,
        "gpu_hours": gpu_hours,
        "cost": gpu_hours * (budget.price_per_gpu_hour or 0.0),
    }
    return [(name, used[name], most) for name in used if (most := getattr(budget, name)) is not None]


def trial_in_words(spec: SearchSpec, trial: Trial) -> str:
    """Its point, and its seed where points have several."""
    return point_in_words(trial.point) + (f" seed={trial.job.seed}" if spec.seeds > 1 else "")
