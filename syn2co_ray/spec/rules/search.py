"""What the keys of a search ask of one another and of its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..base import Section
from ..errors import Fault
from ..search import (
    FINITE_FORMS,
    FORMS,
    BudgetSpec,
    DimensionSpec,
    Metric,
    Mode,
    PopulationSpec,
    SchedulerSpec,
)
from .registry import rule

Space = Mapping[str, DimensionSpec]
NOT_VARIED = {
    "seed": "give the number of seeds as `seeds`",
    "name": "trials are named after the search",
    "kind": "a search varies a pretrain job",
    "storage": "trials lie below the search's folder",
}


@rule
def dimensions_have_one_form(space: Space) -> Iterator[Fault]:
    for key, dimension in space.items():
        forms = dimension.given_forms
        if len(forms) != 1:
            yield Fault(f"space.{key}", " and ".join(forms) or "no values", "one of " + ", ".join(FORMS))
            continue
        low, high, *step = getattr(dimension, forms[0]) if forms[0] not in FINITE_FORMS else (0, 1)
        if low >= high:
            yield Fault(f"space.{key}.{forms[0]}", f"[{low:g}, {high:g}]", "lowest < highest", "swap them")
        elif step and step[0] <= 0:
            yield Fault(f"space.{key}.{forms[0]}", f"step {step[0]:g}", "a step above 0")
        if forms[0] == "loguniform" and low <= 0:
            yield Fault(f"space.{key}.loguniform", f"from {low:g}", "above 0", "use uniform")


@rule
def keys_can_be_varied(space: Space) -> Iterator[Fault]:
    for key in space:
        if key in NOT_VARIED:
            yield Fault(f"space.{key}", f"{key} in the space", "other keys of the base", NOT_VARIED[key])
        for other in space:
            if other.startswith(f"{key}."):
                yield Fault(f"space.{other}", f"lies in {key}, which varies too", "one of them")


@rule
def conditions_name_keys(space: Space) -> Iterator[Fault]:
    for key, dimension in space.items():
        for other, wanted in dimension.when.items():
            where = f"space.{key}.when.{other}"
            if other not in space:
                yield Fault(where, "no key of the space", ", ".join(name for name in space if name != key))
                continue
            there = space[other].values
            for value in wanted if isinstance(wanted, list) else [wanted]:
                if there is not None and value not in there:
                    yield Fault(where, f"{value!r} is none of its values", ", ".join(map(str, there)))
        if _leads_to(space, key, key, set()):
            yield Fault(f"space.{key}.when", "depends on itself", "conditions without a circle")


def _leads_to(space: Space, start: str, target: str, seen: set[str]) -> bool:
    others = [other for other in space[start].when if other in space and other not in seen]
    seen.update(others)
    return target in space[start].when or any(_leads_to(space, other, target, seen) for other in others)


@rule
def searcher_fits_the_space(space: Space, searcher: str, trials: int | None) -> Iterator[Fault]:
    for key, dimension in space.items():
        for form in dimension.given_forms:
            where = f"space.{key}.{form}"
            if searcher == "grid" and form not in FINITE_FORMS:
                yield Fault(where, f"{form} with searcher grid", "grid or choice", "list its values")
            if searcher != "grid" and form == "grid":
                yield Fault(where, f"grid with searcher {searcher}", "choice", "use searcher: grid or choice")
    if searcher == "grid" and trials is not None:
        yield Fault("trials", f"{trials} with searcher grid", "every combination", "leave it out")
    if searcher != "grid" and trials is None:
        yield Fault("trials", f"missing with searcher {searcher}", "a number of points", "add trials: 20")


@rule
def metrics_are_measured(
    base: Section, metric: Metric, metrics: tuple[Metric, ...] | None
) -> Iterator[Fault]:
    data, evaluate = getattr(base, "data", None), getattr(base, "evaluate", None)
    if data is None or evaluate is None:
        return
    for each in metrics or (metric,):
        if each in ("knn", "linear", "knn_per_gpu_hour") and data.eval is None:
            yield Fault("base.data.eval", f"missing, and the metric is {each}", "labelled images", "add it")
        if each == "linear" and evaluate.linear is None:
            yield Fault("base.evaluate.linear", "null, and the metric is linear", "a probe", "leave null out")
        if each in ("knn_per_gpu_hour", "gpu_hours") and not uses_gpus(base):
            allowed = "knn, linear, loss, rankme, wall_hours"
            yield Fault("metric", f"{each} of a job without GPUs", allowed)


@rule
def several_metrics_are_several(
    metric: Metric, metrics: tuple[Metric, ...] | None, mode: Mode | tuple[Mode, ...] | None
) -> Iterator[Fault]:
    count = len(metrics or (metric,))
    if metrics is not None:
        if count < 2 or len(set(metrics)) < count:
            yield Fault("metric", f"[{', '.join(metrics)}]", "one, or a list of different ones")
        elif metrics[0] != metric:
            yield Fault("metric", f"{metric}, and the first of `metrics` is {metrics[0]}", "the same")
    modes = len(mode) if isinstance(mode, tuple) else 1
    if mode is not None and modes != count:
        got = f"{modes} for {count} metrics"
        yield Fault("mode", got, "max or min for each metric, in their order", "or leave it out")


@rule
def several_metrics_stop_nothing(
    metrics: tuple[Metric, ...] | None, scheduler: SchedulerSpec | PopulationSpec
) -> Iterator[Fault]:
    if metrics is not None and scheduler.name != "none":
        yield Fault(
            "scheduler",
            f"{scheduler.name} with several metrics: a run that is worse in one may be better in another, "
            "so that none is the one to stop",
            "none, or one metric",
            "use scheduler: none",
        )


@rule
def bohb_has_lengths_to_learn_from(
    searcher: str, scheduler: SchedulerSpec | PopulationSpec
) -> Iterator[Fault]:
    if searcher == "bohb" and scheduler.name not in ("asha", "asha_promotion", "hyperband"):
        got = f"bohb with scheduler {scheduler.name}, and it learns from runs that were stopped early"
        yield Fault("searcher", got, "scheduler hyperband or asha", "add scheduler: hyperband")


KNOWN_DURING_TRAINING = ("knn", "knn_per_gpu_hour", "loss", "rankme")


@rule
def early_stopping_has_something_to_look_at(
    base: Section, metric: Metric, scheduler: SchedulerSpec | PopulationSpec
) -> Iterator[Fault]:
    """k-NN accuracy where it is measured, loss and rankme of every epoch: by the search's own metric."""
    train, evaluate = getattr(base, "train", None), getattr(base, "evaluate", None)
    if isinstance(scheduler, PopulationSpec) or scheduler.name == "none" or train is None or evaluate is None:
        return
    if metric not in KNOWN_DURING_TRAINING:
        got = f"{scheduler.name} with metric {metric}, by which runs under way cannot be compared"
        yield Fault("scheduler", got, f"metric {', '.join(KNOWN_DURING_TRAINING)}", "use scheduler: none")
    every = evaluate.knn.every_epochs
    if metric.startswith("knn") and every >= train.epochs:
        got = f"{every} of {train.epochs} epochs, and scheduler {scheduler.name} looks at k-NN in between"
        yield Fault("base.evaluate.knn.every_epochs", got, "less than train.epochs", "lower it")
    if scheduler.grace_epochs >= train.epochs:
        yield Fault("scheduler.grace_epochs", f"{scheduler.grace_epochs}", "less than base.train.epochs")


@rule
def budget_can_be_counted(base: Section, budget: BudgetSpec) -> Iterator[Fault]:
    if budget.cost is not None and budget.price_per_gpu_hour is None:
        yield Fault("budget.price_per_gpu_hour", "missing, and budget.cost is given", "a price", "add it")
    for name in ("gpu_hours", "cost"):
        if getattr(budget, name) is not None and not uses_gpus(base):
            yield Fault(f"budget.{name}", "given for a job without GPUs", "budget.wall_hours", "use that")


def uses_gpus(base: Any) -> bool:
    """Whether workers or view actors of a training ask for GPUs."""
    return bool(base.train.workers.gpus_each or base.augment.actors.gpus_each)
