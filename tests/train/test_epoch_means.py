"""What runs under way are compared by: means over whole epochs, also of one that was resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.train.epoch_means import EpochMeans

from .local_run import local_loop, prepared, rows_of


def test_what_is_not_finite_does_not_count_and_an_epoch_without_a_look_has_no_rank() -> None:
    means = EpochMeans()
    for loss in (4.0, float("nan"), 2.0):
        means.add(loss, {"embedding/rankme": 7.0} if loss == 2.0 else {})
    assert means.taken() == {"loss": 3.0, "rankme": 7.0}
    means.add(1.0, {})
    assert means.taken() == {"loss": 1.0}
    assert means.taken() == {}


def test_an_epoch_that_was_stopped_in_the_middle_has_the_mean_of_all_its_steps(tmp_path: Path) -> None:
    shown: list[dict[str, Any]] = []
    for stop_before_step in (7, None):
        loop = local_loop(prepared(tmp_path), stop_before_step=stop_before_step, stop_after_epochs=2)
        loop.context.show = lambda row: shown.append(row["epoch_means"]) if "epoch_means" in row else None
        loop.run_to_end()
    assert [means["epoch"] for means in shown] == [1, 2]
    losses = [row["loss"] for row in rows_of(str(tmp_path / "runs"))]
    assert [means["loss"] for means in shown] == pytest.approx([sum(losses[:5]) / 5, sum(losses[5:]) / 5])
    assert "rankme" in shown[0]  # looked at in the first step
    (state,) = tmp_path.glob("runs/*/checkpoints/step-000000007/state.json")
    assert json.loads(state.read_text())["epoch_so_far"]["loss"][1] == 2
