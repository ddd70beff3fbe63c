"""The law "1 worker = N workers": one process against two real gloo processes, in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import syn2co_ray
from tests.methods.gloo_ranks import TRAINED

Results = dict[str, Tensor]
QUEUES = {"synby_vit": 2, "synby_resnet": 2, "moby": 2, "moco_v2": 1, "synco": 1}
"""Scenario -> number of its queues."""
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10}


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Results, list[Results]]:
    """What one process alone, and each of two ranks, computed; on one GPU both ranks share it."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("gloo_ranks.py")
    source = Path(syn2co_ray.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder), request.param],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout
    alone, *ranks = (
        torch.load(folder / f"{name}.pt", weights_only=True) for name in ("alone", "rank0", "rank1")
    )
    return alone, ranks


def pick(results: Results, prefix: str) -> Results:
    return {key: value for key, value in results.items() if key.startswith(prefix)}


@pytest.mark.parametrize("scenario", TRAINED)
def test_mean_loss_over_ranks_is_the_loss_of_one_process(
    runs: tuple[Results, list[Results]], scenario: str
) -> None:
    alone, ranks = runs
    losses = pick(alone, f"{scenario}/loss/")
    assert len(losses) == 4
    for key, loss in losses.items():
        torch.testing.assert_close((ranks[0][key] + ranks[1][key]) / 2, loss, **CLOSE)
        assert not torch.equal(ranks[0][key], ranks[1][key])


@pytest.mark.parametrize("scenario", TRAINED)
def test_gradients_after_ddp_are_those_of_one_process(
    runs: tuple[Results, list[Results]], scenario: str
) -> None:
    alone, ranks = runs
    gradients = pick(alone, f"{scenario}/gradient/")
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients.values())
    assert set(pick(ranks[0], f"{scenario}/gradient/")) == set(gradients)
    for key, gradient in gradients.items():
        for rank in ranks:
            torch.testing.assert_close(rank[key], gradient, **CLOSE, msg=key)


@pytest.mark.parametrize("scenario", TRAINED)
def test_state_after_training_is_that_of_one_process(
    runs: tuple[Results, list[Results]], scenario: str
) -> None:
    """Networks, batch-norm statistics, queues (wrapped once) and pointers; queues bit-equal on both ranks."""
    alone, ranks = runs
    state = pick(alone, f"{scenario}/state/")
    pointers = [int(value) for key, value in state.items() if key.endswith(".pointer")]
    assert pointers == [4 * 20 % 50] * QUEUES.get(scenario, 0)
    for key, value in state.items():
        for rank in ranks:
            torch.testing.assert_close(rank[key], value, rtol=1e-7, atol=1e-9, msg=key)
        if "/queue" in key:
            assert torch.equal(ranks[0][key], ranks[1][key])


@pytest.mark.parametrize("scenario", ["batch_norm_1d", "batch_norm_2d", "gather"])
def test_global_batch_norm_and_gather_equal_the_joined_batch(
    runs: tuple[Results, list[Results]], scenario: str
) -> None:
    alone, ranks = runs
    for key, expected in pick(alone, f"{scenario}/").items():
        parts = [rank[key] for rank in ranks]
        sort = key.split("/")[1]
        if sort == "rows":
            torch.testing.assert_close(torch.cat(parts), expected, **CLOSE, msg=key)
        elif sort == "sum":
            torch.testing.assert_close(parts[0] + parts[1], expected, **CLOSE, msg=key)
        else:
            for part in parts:
                torch.testing.assert_close(part, expected, **CLOSE, msg=key)
