"""Metrics of runs for whoever watches a cluster, through Ray's metrics API.

Ray exports them on each node's metrics port as `ray_<name>`, with the labels `run` and `framework` and its
own (`SessionName`, `NodeAddress`, ...). They are set in processes that live as long as the run and do not
train: the board (training), the generator of a live source, the driver (`kind: generate`). So training never
waits for them, and a run that is gone is silent: Ray exports a gauge for 20 s after it was set, so gauges are
set again while the run goes on; a counter stays, and counts no more.

Times are exported as Unix seconds, not as ages: an age that nobody refreshes would stand still.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: tuple[str, ...] = ()
    """Beyond `run` and `framework`."""


METRICS = (
    Metric("syn2co_steps_total", "counter", "Optimizer steps done; those that a restart repeats count again"),
    Metric("syn2co_images_total", "counter", "Images trained on, of all ranks"),
    Metric("syn2co_step_seconds_total", "counter", "Time of these steps, with the wait for data"),
    Metric("syn2co_data_wait_seconds_total", "counter", "Part of it that rank 0 waited for images"),
    Metric("syn2co_checkpoint_seconds_total", "counter", "Time that training stood still for checkpoints"),
    Metric("syn2co_skipped_steps_total", "counter", "Steps left out: loss or gradient not finite"),
    Metric("syn2co_quarantined_images_total", "counter", "Images that could not be read and were replaced"),
    Metric("syn2co_restarts_total", "counter", "Starts of the workers after the first one of a command"),
    Metric("syn2co_workers", "gauge", "DDP processes"),
    Metric("syn2co_epoch", "gauge", "Epoch of the newest step, from 0"),
    Metric("syn2co_step", "gauge", "Number of the newest step"),
    Metric("syn2co_steps_left", "gauge", "Steps until training ends; 0 in the last evaluation"),
    Metric("syn2co_loss", "gauge", "Loss of the newest step, mean over the global batch"),
    Metric("syn2co_learning_rate", "gauge", "Learning rate of the newest step"),
    Metric("syn2co_gradient_norm", "gauge", "Global L2 norm of the newest gradient before clipping"),
    Metric("syn2co_knn_top1_ratio", "gauge", "Newest k-NN accuracy, 0 to 1", ("k",)),
    Metric("syn2co_embedding_spread_ratio", "gauge", "0: all images get one embedding; 1: they spread"),
    Metric("syn2co_negatives_harder_ratio", "gauge", "Negatives harder than the positive", ("negatives",)),
    Metric("syn2co_negatives_mass_ratio", "gauge", "Their part of the softmax", ("negatives",)),
    Metric(
        "syn2co_progress_timestamp_seconds",
        "gauge",
        "When the newest step ended; before the first one, when the workers were asked for",
    ),
    Metric(
        "syn2co_checkpoint_timestamp_seconds",
        "gauge",
        "When the newest checkpoint was published; before the first one, when the workers were asked for",
    ),
    Metric("syn2co_generated_images_total", "counter", "Generated images that passed the gate"),
    Metric("syn2co_rejected_images_total", "counter", "Generated images that the gate refused", ("reason",)),
    Metric("syn2co_generating_actors", "gauge", "Actors that generate for a live source"),
    Metric("syn2co_live_ready_images", "gauge", "Images in the pool of a live source"),
    Metric("syn2co_live_late_passes_total", "counter", "Passes over the pool that came before their images"),
)
"""All metrics; dashboard and alert rules in `cluster/watch` use these alone."""

SET_AGAIN_EVERY_S = 5.0

NEGATIVES = "negatives/"
"""Begins telemetry of synthesized negatives (negatives/<kind>/<figure>); the queue's is queue/<figure>."""


class Instrument(Protocol):
    """What Ray's counters and gauges have in common here."""

    def add(self, value: float, labels: dict[str, str]) -> None:
        """Counters add to their value, gauges take it."""


class RunMetrics:
    """The metrics of one run in one process."""

    def __init__(self, run: str, framework: str, instruments: Mapping[str, Instrument] | None = None) -> None:
        self.instruments = ray_instruments() if instruments is None else instruments
        self.labels = {"run": run, "framework": framework}
        self._totals: dict[str, float] = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._mutex, self._ended = threading.Lock(), threading.Event()
        if instruments is None:
            threading.Thread(target=self._set_again, name="metrics", daemon=True).start()

    def set(self, name: str, value: float | None, **labels: str) -> None:
        """Set a gauge; what is not finite (or None) leaves it as it is."""
        if value is not None and math.isfinite(value):
            with self._mutex:
                self._gauges[name, tuple(labels.items())] = float(value)
                self.instruments[name].add(float(value), self.labels | labels)

    def count(self, name: str, by: float = 0.0, **labels: str) -> None:
        """Count; 0 makes a series known, so that its first event is an increase."""
        self.instruments[name].add(float(by), self.labels | labels)

    def count_up_to(self, name: str, total: float) -> None:
        """Count what a running total has grown by since the last time."""
        self.count(name, max(0.0, total - self._totals.get(name, 0.0)))
        self._totals[name] = total

    def totals_begin_anew(self) -> None:
        """Running totals start again from 0: other workers report them."""
        self._totals.clear()

    def end(self) -> None:
        """The run is over: its gauges are set no more."""
        self._ended.set()

    def _set_again(self) -> None:
        while not self._ended.wait(SET_AGAIN_EVERY_S):
            with self._mutex:
                for (name, labels), value in self._gauges.items():
                    self.instruments[name].add(value, self.labels | dict(labels))


class TrainingMetrics(RunMetrics):
    """What the board of a training knows."""

    def began(self, at_unix_s: float) -> None:
        """The workers of a command are asked for; all counters are there from now on."""
        self.set("syn2co_progress_timestamp_seconds", at_unix_s)
        self.set("syn2co_checkpoint_timestamp_seconds", at_unix_s)
        self.count("syn2co_restarts_total")

    def restarted(self) -> None:
        self.count("syn2co_restarts_total", 1)
        self.totals_begin_anew()

    def stepped(self, progress: Mapping[str, Any], at_unix_s: float) -> None:
        """A step's row as the loop shows it; `totals` are those of this start of the workers."""
        self.set("syn2co_progress_timestamp_seconds", at_unix_s)
        for name in ("step", "epoch", "workers", "loss", "learning_rate", "gradient_norm"):
            self.set(f"syn2co_{name}", progress[name])
        self.set("syn2co_steps_left", progress["total_steps"] - progress["step"])
        for name, total in progress["totals"].items():
            self.count_up_to(f"syn2co_{name}_total", total)
        stats = progress["newest_stats"]
        self.set("syn2co_embedding_spread_ratio", stats.get("embedding/spread"))
        for name, value in stats.items():
            of, _, figure = name.removeprefix(NEGATIVES).rpartition("/")
            if figure in ("harder", "mass") and (name.startswith(NEGATIVES) or of == "queue"):
                self.set(f"syn2co_negatives_{figure}_ratio", value, negatives=of)

    def evaluated(self, knn_percent: Mapping[str, float]) -> None:
        """k-NN accuracy in percent by k."""
        for k, percent in knn_percent.items():
            self.set("syn2co_knn_top1_ratio", percent / 100, k=str(k))

    def checkpointed(self, at_unix_s: float) -> None:
        self.set("syn2co_checkpoint_timestamp_seconds", at_unix_s)


class GenerationMetrics(RunMetrics):
    """What those know who take finished shards from generating actors."""

    def began(self) -> None:
        self.count("syn2co_generated_images_total")

    def shard(self, images: int, rejects: Mapping[str, int]) -> None:
        """A finished shard: images that passed, and refused ones by reason."""
        self.count("syn2co_generated_images_total", images)
        for reason, count in rejects.items():
            self.count("syn2co_rejected_images_total", count, reason=reason)

    def pool(self, ready_images: int, actors: int, late_passes: int) -> None:
        """The state of a live source."""
        self.set("syn2co_live_ready_images", ready_images)
        self.set("syn2co_generating_actors", actors)
        self.count_up_to("syn2co_live_late_passes_total", late_passes)


def ray_instruments() -> dict[str, Instrument]:
    """An instrument of Ray for every row of the table; Ray exports those that have got a value."""
    from ray.util import metrics

    class RayInstrument:
        def __init__(self, row: Metric) -> None:
            kind = metrics.Counter if row.kind == "counter" else metrics.Gauge
            self._metric = kind(row.name, row.meaning, ("run", "framework", *row.labels))

        def add(self, value: float, labels: dict[str, str]) -> None:
            # `inc` refuses 0, but a series that begins with its first event has not increased.
            self._metric._record(value, labels)

    return {row.name: RayInstrument(row) for row in METRICS}
