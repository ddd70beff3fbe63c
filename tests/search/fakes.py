"""Runs that train an epoch in so many looks, and a search of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from syn2co_ray.search.loop import Ended, Search
from syn2co_ray.search.records import Records
from syn2co_ray.search.trials import Trial
from syn2co_ray.spec.load import load_text
from syn2co_ray.spec.search import SearchSpec
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store
from tests.spec.test_search import BASE, indented

EPOCHS = 10
TEXT = f"""\
kind: search
name: look
metric: knn
searcher: grid
base:
{indented(BASE)}
  evaluate: {{knn: {{every_epochs: 1}}}}
space:
  method.temperature: {{grid: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}}
"""

Curve = Callable[[Trial, int], float]


def by_temperature(trial: Trial, epoch: int) -> float:
    """The hotter the better: 1 to 6 percent an epoch."""
    return 10 * trial.point["method.temperature"] * epoch


@dataclass
class FakeRun:
    """Trains one epoch in so many looks; stops one look after it was asked to."""

    trial: Trial
    curve: Curve
    epoch: int = 0
    gpus_held: float = 0.0
    fails_after: int | None = None
    looks_per_epoch: int = 1
    looks: int = 0
    asked: bool = False
    metrics: Callable[[Trial], dict[str, float | None]] = lambda trial: {}
    measured: dict[int, float] = field(default_factory=dict)

    def evaluations(self) -> dict[int, float]:
        return dict(self.measured)

    def gpus(self) -> float:
        return self.gpus_held

    def ask_to_stop(self) -> None:
        self.asked = True

    def ended(self) -> Ended | None:
        if self.asked:
            return Ended("interrupted", dict(self.measured))
        if self.epoch == self.fails_after:
            return Ended("failed", dict(self.measured), error="no memory")
        self.looks += 1
        if self.looks % self.looks_per_epoch:
            return None
        self.epoch += 1
        self.measured[self.epoch] = self.curve(self.trial, self.epoch)
        if self.epoch < EPOCHS:
            return None
        return Ended(
            "finished", dict(self.measured), self.measured[self.epoch], values=self.metrics(self.trial)
        )


class Cluster:
    """Starts fake runs that continue where the same trial was stopped, and remembers them."""

    def __init__(
        self, curve: Curve = by_temperature, gpus_each: float = 0.0, looks_per_epoch: int = 1
    ) -> None:
        self.curve, self.gpus_each, self.looks_per_epoch = curve, gpus_each, looks_per_epoch
        self.started: list[int] = []
        self.fails: dict[int, list[int | None]] = {}
        self.epochs: dict[int, FakeRun] = {}
        self.metrics: Callable[[Trial], dict[str, float | None]] = lambda trial: {}

    def start(self, trial: Trial) -> FakeRun:
        self.started.append(trial.number)
        before = self.epochs.get(trial.number)
        fails = self.fails.get(trial.number) or [None]
        epoch = before.epoch if before else 0
        run = FakeRun(
            trial, self.curve, epoch, self.gpus_each, fails.pop(0), self.looks_per_epoch, metrics=self.metrics
        )
        self.epochs[trial.number] = run
        return run


def search_spec(folder: Path, *overrides: str, text: str = TEXT) -> SearchSpec:
    spec = load_text(text, [f"base.storage={folder}", *overrides])
    assert isinstance(spec, SearchSpec)
    return spec


def search_on(
    folder: Path,
    cluster: Cluster,
    *overrides: str,
    concurrent: int = 2,
    text: str = TEXT,
    now_s: float = 0.0,
) -> tuple[Search, list[str]]:
    """A search with its records in a folder, and the lines that it tells."""
    lines: list[str] = []
    records = Records(open_store(str(folder), ObjectStoreSpec()))
    spec = search_spec(folder, *overrides, text=text)
    return Search(spec, records, cluster.start, concurrent, now_s, lines.append), lines


def run_to_end(search: Search, *, now_s: float = 0.0, step_s: float = 60.0, steps_max: int = 1000) -> int:
    """Looks until it ends; the most trials that ran at once."""
    most = 0
    for _ in range(steps_max):
        going_on = search.step(now_s)
        most = max(most, len(search.active))
        now_s += step_s
        if not going_on:
            return most
    raise AssertionError("the search does not end")
