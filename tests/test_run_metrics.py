"""Metrics of runs: what the board makes of the loop's rows, and that the table is what is exported."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.run_metrics import METRICS, GenerationMetrics, TrainingMetrics
from syn2co_ray.train.loop import WATCHED_TOTALS
from tests.train.local_run import local_loop, prepared


class Exported(dict[str, Any]):
    """Stands where Ray's instruments do: `at(name, label=value)` is what Prometheus would read."""

    def __init__(self) -> None:
        super().__init__({row.name: _Series(row.kind) for row in METRICS})

    def at(self, name: str, **labels: str) -> float | None:
        return self[name].values.get(frozenset(labels.items()) | {("run", "r-1"), ("framework", "synby")})


class _Series:
    def __init__(self, kind: str) -> None:
        self.kind, self.values = kind, dict[frozenset[tuple[str, str]], float]()

    def add(self, value: float, labels: dict[str, str]) -> None:
        key = frozenset(labels.items())
        self.values[key] = value + (self.values.get(key, 0.0) if self.kind == "counter" else 0.0)


@pytest.fixture
def exported() -> Exported:
    return Exported()


@pytest.fixture
def training(exported: Exported) -> TrainingMetrics:
    metrics = TrainingMetrics("r-1", "synby", exported)
    metrics.began(1000.0)
    return metrics


def row(step: int, *, loss: float = 2.0, stats: dict[str, float] | None = None, **totals: float) -> Any:
    every = dict.fromkeys(WATCHED_TOTALS, 0.0) | {"steps": step} | totals
    return {"step": step, "total_steps": 100, "epoch": 0, "workers": 2, "loss": loss, "learning_rate": 0.1,
            "gradient_norm": 3.0, "newest_stats": stats or {}, "totals": every}  # fmt: skip


def test_names_carry_their_units_as_prometheus_wants_them() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"syn2co_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name


def test_before_the_first_step_time_counts_from_the_start_and_counters_are_zero(exported, training) -> None:
    assert exported.at("syn2co_progress_timestamp_seconds") == 1000.0
    assert exported.at("syn2co_checkpoint_timestamp_seconds") == 1000.0
    assert exported.at("syn2co_restarts_total") == 0.0
    training.stepped(row(1), 1001.0)
    assert exported.at("syn2co_skipped_steps_total") == 0.0


def test_steps_that_were_thinned_out_are_counted_all_the_same(exported, training) -> None:
    training.stepped(row(1, images=32, skipped_steps=0), 1001.0)
    training.stepped(row(7, images=224, skipped_steps=2, data_wait_seconds=1.5), 1002.0)
    assert exported.at("syn2co_steps_total") == 7
    assert exported.at("syn2co_images_total") == 224
    assert exported.at("syn2co_skipped_steps_total") == 2
    assert exported.at("syn2co_data_wait_seconds_total") == 1.5
    assert exported.at("syn2co_steps_left") == 93
    assert exported.at("syn2co_progress_timestamp_seconds") == 1002.0


def test_a_restart_counts_repeated_steps_again_even_when_it_is_seen_late(exported, training) -> None:
    training.stepped(row(7), 1001.0)
    training.restarted()
    # The new workers' first row that passes is further on than the last one of the old ones.
    training.stepped({**row(9), "step": 14}, 1040.0)
    assert exported.at("syn2co_steps_total") == 7 + 9
    assert exported.at("syn2co_restarts_total") == 1


def test_a_loss_that_is_not_finite_leaves_the_last_one_and_is_counted(exported, training) -> None:
    training.stepped(row(1, loss=2.0), 1001.0)
    training.stepped(row(2, loss=float("nan"), skipped_steps=1), 1002.0)
    assert exported.at("syn2co_loss") == 2.0
    assert exported.at("syn2co_skipped_steps_total") == 1


def test_telemetry_has_a_series_for_each_sort_of_negatives(exported, training) -> None:
    stats = {"queue/harder": 0.01, "queue/mass": 0.5, "queue/logit": 0.3, "negatives/mixup/harder": 0.2,
             "negatives/mixup/logit_max": 0.9, "positive/logit": 0.8, "embedding/spread": 0.4}  # fmt: skip
    training.stepped(row(20, stats=stats), 1001.0)
    assert exported.at("syn2co_negatives_harder_ratio", negatives="queue") == 0.01
    assert exported.at("syn2co_negatives_mass_ratio", negatives="queue") == 0.5
    assert exported.at("syn2co_negatives_harder_ratio", negatives="mixup") == 0.2
    assert len(exported["syn2co_negatives_harder_ratio"].values) == 2
    assert exported.at("syn2co_embedding_spread_ratio") == 0.4


def test_accuracy_is_a_ratio_and_a_checkpoint_a_time(exported, training) -> None:
    training.evaluated({"10": 85.0, "20": 80.0})
    training.checkpointed(1234.0)
    assert exported.at("syn2co_knn_top1_ratio", k="10") == 0.85
    assert exported.at("syn2co_checkpoint_timestamp_seconds") == 1234.0


def test_gauges_are_set_again_until_the_run_ends_and_counters_are_not(
    exported, training, monkeypatch
) -> None:
    monkeypatch.setattr("syn2co_ray.run_metrics.SET_AGAIN_EVERY_S", 0.01)
    training.restarted()
    training.stepped(row(5), 1001.0)
    for name in ("syn2co_loss", "syn2co_restarts_total"):
        exported[name].values.clear()  # as Ray does with a gauge after 20 s
    again = threading.Thread(target=training._set_again)
    again.start()
    until = time.monotonic() + 10
    while exported.at("syn2co_loss") is None and time.monotonic() < until:
        again.join(0.01)
    training.end()
    again.join(10)
    assert not again.is_alive()
    assert exported.at("syn2co_loss") == 2.0
    assert exported.at("syn2co_restarts_total") is None


def test_generated_and_refused_images_are_counted_by_reason(exported) -> None:
    metrics = GenerationMetrics("r-1", "synby", exported)
    metrics.began()
    assert exported.at("syn2co_generated_images_total") == 0
    for _ in range(2):
        metrics.shard(8, {"duplicate": 3})
    metrics.pool(ready_images=16, actors=1, late_passes=1)
    metrics.pool(ready_images=24, actors=1, late_passes=1)
    assert exported.at("syn2co_generated_images_total") == 16
    assert exported.at("syn2co_rejected_images_total", reason="duplicate") == 6
    assert exported.at("syn2co_live_ready_images") == 24
    assert exported.at("syn2co_live_late_passes_total") == 1


def test_rows_of_a_real_loop_fill_the_training_part_of_the_table(
    exported: Exported, training: TrainingMetrics, tmp_path: Path
) -> None:
    loop = local_loop(prepared(tmp_path, "train.epochs=5"))
    loop.context.show = lambda shown: training.stepped(shown, 1001.0) if "step" in shown else None
    loop.run_to_end()
    assert exported.at("syn2co_steps_total") == 25
    assert exported.at("syn2co_images_total") == 25 * 32
    assert exported.at("syn2co_steps_left") == 0
    assert 0 < exported.at("syn2co_data_wait_seconds_total") < exported.at("syn2co_step_seconds_total")
    # Looked at every 20 steps, but there whichever row is read.
    assert 0 <= exported.at("syn2co_negatives_harder_ratio", negatives="queue") <= 1
    assert 0 < exported.at("syn2co_negatives_mass_ratio", negatives="adversarial") < 1
    elsewhere = {"syn2co_knn_top1_ratio"}
    empty = {name for name, series in exported.items() if not series.values}
    assert {
        name for name in empty if "generat" not in name and "reject" not in name and "live" not in name
    } == elsewhere
