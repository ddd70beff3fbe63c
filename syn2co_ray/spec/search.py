"""`kind: search`: many trainings of one base job, each with other values at some of its dotted keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from .base import EXECUTION_ONLY, Section

FORMS = ("choice", "grid", "uniform", "loguniform", "quniform", "randint")
FINITE_FORMS = ("choice", "grid")


class DimensionSpec(Section):
    """The values of one key of the base: exactly one of the forms."""

    choice: tuple[Any, ...] | None = Field(default=None, strict=False, min_length=1)
    """One of these values; a value may be a whole section."""
    grid: tuple[Any, ...] | None = Field(default=None, strict=False, min_length=1)
    """All of these values (only with searcher grid)."""
    uniform: tuple[float, float] | None = Field(default=None, strict=False)
    """Lowest and highest value."""
    loguniform: tuple[float, float] | None = Field(default=None, strict=False)
    """Lowest and highest value; their logarithm is drawn."""
    quniform: tuple[float, float, float] | None = Field(default=None, strict=False)
    """Lowest and highest value, and the step between values, counted from the lowest."""
    randint: tuple[int, int] | None = Field(default=None, strict=False)
    """Lowest and highest whole number, both included."""
    when: dict[str, Any] = Field(default_factory=dict)
    """The key varies only where other keys of the space have these values (a list: one of them); elsewhere
    it is as in the base."""

    @property
    def given_forms(self) -> list[str]:
        return [form for form in FORMS if getattr(self, form) is not None]

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All values, of a finite form; else None."""
        return self.choice if self.choice is not None else self.grid


def _name_as_section(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class SchedulerSpec(Section):
    """Which runs are stopped early, by the metric during training: k-NN where it is measured; loss and
    rankme, where one of them is the metric, of every epoch."""

    name: Literal["none", "asha", "asha_promotion", "hyperband", "median"] = "none"
    """asha: at rungs of the run's epochs, the best of those that came so far go on, and so do the first,
    which have nothing to be compared with. asha_promotion: only the best of those that came go on; a stopped
    run is taken up again when, with later ones, it is among them. hyperband: asha from several first rungs.
    median: a run whose best is below the median of the others' means ends."""
    grace_epochs: int = Field(default=1, ge=1)
    """No run ends before it has trained so many epochs."""
    reduction_factor: int = Field(default=3, ge=2)
    """asha, asha_promotion, hyperband: one in so many goes on at each rung; rungs are that factor apart."""


class PopulationSpec(Section):
    """Population-based training: all points train side by side, and the worst go on from the best.

    After every so many epochs each of the worst takes the whole checkpoint of one of the best, and that
    one's values, changed (Jaderberg et al. 2017, arXiv 1711.09846, truncation selection).
    """

    name: Literal["pbt"]
    every_epochs: int = Field(ge=1)
    """Epochs between two such exchanges; none is made at the end."""
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    """Part of the population that takes over, and that is taken from; at least one."""
    resample_probability: float = Field(default=0.25, ge=0, le=1)
    """Chance that a value is drawn anew; otherwise it is changed by one of `factors`."""
    factors: tuple[float, float] = Field(default=(0.8, 1.2), strict=False)
    """What a number is multiplied with, one or the other; of a finite key the neighbour is taken."""


SchedulerOrName = Annotated[
    SchedulerSpec | PopulationSpec,
    Field(discriminator="name"),
    BeforeValidator(_name_as_section, json_schema_input_type=str | SchedulerSpec | PopulationSpec),
]
"""`scheduler: asha` is short for `scheduler: {name: asha}`."""


Metric = Literal["knn", "linear", "loss", "rankme", "knn_per_gpu_hour", "gpu_hours", "wall_hours"]
Mode = Literal["max", "min"]
MINIMISED = ("loss", "gpu_hours", "wall_hours")


METRICS = get_args(Metric)


def _first_of_several(value: Any) -> Any:
    """The first that there is not, so that it is told, or else the first."""
    if not isinstance(value, list | tuple) or not value:
        return value
    return next((each for each in value if each not in METRICS), value[0])


class BudgetSpec(Section):
    """When the search ends at the latest; runs under way publish a checkpoint and stop."""

    wall_hours: float | None = Field(default=None, gt=0)
    """Of the search, over all its commands."""
    gpu_hours: float | None = Field(default=None, gt=0)
    """Of all runs together, from the start of their workers on."""
    cost: float | None = Field(default=None, gt=0)
    """GPU-hours times price_per_gpu_hour."""
    price_per_gpu_hour: float | None = Field(default=None, gt=0)
    """In whatever currency cost is meant."""


class SearchSpec(Section):
    """Trainings of a base job at points of a space, compared by one metric."""

    kind: Literal["search"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,49}$")
    """Lower-case name; its folder, below the base's storage, is this name and a short hash of the spec."""
    seed: int = Field(default=0, ge=0)
    """Points derive from it and their number; trainings have the base's seed."""
    base: SerializeAsAny[Section]
    """The job that is varied: the path of a file of kind pretrain, or its keys (with `base:` for a file)."""
    space: dict[str, DimensionSpec] = Field(min_length=1)
    """Dotted key of the base -> its values."""
    metric: Annotated[
        Metric, BeforeValidator(_first_of_several, json_schema_input_type=Metric | tuple[Metric, ...])
    ]
    """knn: top-1 percent at the first of evaluate.knn.neighbours; linear: of the probe after training; loss,
    rankme: mean over the last epoch (losses compare only with the same method, temperature and queue);
    knn_per_gpu_hour: knn over the GPU-hours of the run; gpu_hours,
    wall_hours: of the run, over all its starts. Of a list the first one sorts the leaderboard."""
    metrics: tuple[Metric, ...] | None = Field(default=None, strict=False)
    """What `metric: [knn, gpu_hours]` says: several, of which no point may be best in all."""
    mode: Mode | Annotated[tuple[Mode, ...], Field(strict=False)] | None = None
    """Which values are better, for several metrics in their order; as the metric says when left out."""
    searcher: Literal["random", "grid", "optuna", "bohb"] = "random"
    """random: drawn; grid: every combination of finite keys; optuna: TPE, from what came out so far; bohb:
    the same for early stopping: who was stopped counts as worse than who came further; a third drawn."""
    trials: int | None = Field(default=None, ge=1, json_schema_extra=EXECUTION_ONLY)
    """How many points (grid has as many as it has); a finished search goes on when there are more."""
    seeds: int = Field(default=1, ge=1)
    """Runs of each point, with the base's seed and those after it."""
    scheduler: SchedulerOrName = SchedulerSpec()
    budget: BudgetSpec = Field(default=BudgetSpec(), json_schema_extra=EXECUTION_ONLY)
    max_concurrent: int | None = Field(default=None, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Runs at once; as many as the cluster has room for when left out."""
    retries: int = Field(default=1, ge=0, json_schema_extra=EXECUTION_ONLY)
    """How often a failed run is started again, from its newest checkpoint."""

    @model_validator(mode="before")
    @classmethod
    def _several_metrics(cls, value: Any) -> Any:
        metrics = value.get("metric") if isinstance(value, dict) else None
        if isinstance(metrics, list | tuple) and metrics and all(each in METRICS for each in metrics):
            return {**value, "metrics": metrics}
        return value

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        return self.metrics or (self.metric,)

    @property
    def directions(self) -> tuple[bool, ...]:
        """Of all metrics, whether more is better."""
        given = self.mode if isinstance(self.mode, tuple) else (self.mode,) * len(self.all_metrics)
        own = ["min" if metric in MINIMISED else "max" for metric in self.all_metrics]
        return tuple((mode or usual) == "max" for mode, usual in zip(given, own, strict=True))

    @property
    def maximises(self) -> bool:
        """Whether more of the first metric is better."""
        return self.directions[0]

    @property
    def judged_by(self) -> Literal["knn", "loss", "rankme"]:
        """What runs are compared by while they train."""
        return self.metric if self.metric == "loss" or self.metric == "rankme" else "knn"

    @property
    def population(self) -> PopulationSpec | None:
        """Of population-based training, if that is what this search is."""
        return self.scheduler if isinstance(self.scheduler, PopulationSpec) else None

    @property
    def training(self) -> Any:
        """The base as the `PretrainSpec` it is (typed loosely: that class knows this module)."""
        return cast(Any, self.base)
