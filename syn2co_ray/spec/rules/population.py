"""What population-based training asks of a search: values that may change while a training goes on."""

from __future__ import annotations

from collections.abc import Iterator

from ..base import Section
from ..errors import Fault
from ..search import Metric, PopulationSpec, SchedulerSpec
from .registry import rule
from .search import Space

OPTIMIZER = (
    "learning_rate_base",
    "learning_rate_warmup_base",
    "learning_rate_min_base",
    "weight_decay",
    "weight_decay_end",
    "betas",
    "eps",
    "sgd_momentum",
    "gradient_clip_norm",
)
METHOD = (
    "temperature",
    "momentum",
    "drop_path_online",
    "drop_path_target",
    "negatives",
    "student_temperature",
    "teacher_temperature",
    "centre_momentum",
    "label_smoothing",
)
AUGMENT = (
    "crop_scale",
    "local_crop_scale",
    "flip_probability",
    "jitter_probability",
    "grey_probability",
    "blur_probability",
    "solarise_probability",
)
CHANGEABLE = (
    *(f"train.optimizer.{name}" for name in OPTIMIZER),
    *(f"method.{name}" for name in METHOD),
    *(f"augment.{name}" for name in AUGMENT),
)
"""Keys (and what lies below them) that a checkpoint goes on with, whatever their value: they decide neither
the shape of a tensor nor the plan of the records, nor where in its schedules a run is."""


@rule
def values_of_a_population_can_change(
    space: Space, scheduler: SchedulerSpec | PopulationSpec
) -> Iterator[Fault]:
    if not isinstance(scheduler, PopulationSpec):
        return
    for key in space:
        if not any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE):
            yield Fault(
                f"space.{key}",
                f"{key} in a population, whose runs take over checkpoints and go on with other values",
                ", ".join(CHANGEABLE),
                "give it one value in the base, or use another scheduler",
            )


@rule
def population_is_one(
    scheduler: SchedulerSpec | PopulationSpec,
    searcher: str,
    seeds: int,
    trials: int | None,
    space: Space,
) -> Iterator[Fault]:
    if not isinstance(scheduler, PopulationSpec):
        return
    if searcher in ("optuna", "bohb"):
        got = f"{searcher} with scheduler pbt, which begins with all points at once"
        yield Fault("searcher", got, "random, grid", "use searcher: random")
    if seeds > 1:
        got = f"{seeds} with scheduler pbt, whose runs take over from one another"
        yield Fault("seeds", got, "1", "use more trials, or another search with another seed")
    if searcher == "random" and trials == 1:
        yield Fault("trials", "1 with scheduler pbt", "2 or more", "a population has many members")
    low, high = scheduler.factors
    if not 0 < low < 1 < high:
        yield Fault("scheduler.factors", f"[{low:g}, {high:g}]", "one below 1, one above", "use [0.8, 1.2]")


@rule
def population_is_measured_in_between(
    base: Section, metric: Metric, scheduler: SchedulerSpec | PopulationSpec
) -> Iterator[Fault]:
    train, evaluate, data = (getattr(base, name, None) for name in ("train", "evaluate", "data"))
    if not isinstance(scheduler, PopulationSpec) or train is None or evaluate is None or data is None:
        return
    if metric not in ("knn", "loss", "rankme"):
        got = f"{metric} with scheduler pbt, which compares runs under way"
        yield Fault("metric", got, "knn, loss, rankme", "use knn")
    every, knn_every = scheduler.every_epochs, evaluate.knn.every_epochs
    if every >= train.epochs:
        got = f"{every} of {train.epochs} epochs"
        yield Fault("scheduler.every_epochs", got, "less than base.train.epochs", "lower it")
    if metric == "knn" and every % knn_every:
        got = f"{knn_every}, and the population is compared every {every} epochs"
        allowed = "a divisor of scheduler.every_epochs"
        yield Fault("base.evaluate.knn.every_epochs", got, allowed, f"use {every}")
    if data.live is not None:
        got = "given with scheduler pbt: a run cannot take over what another one's generator has made"
        yield Fault("base.data.live", got, "stored images", "generate them first (kind: generate)")
