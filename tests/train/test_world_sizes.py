"""A checkpoint of two ranks continues on one and on four as if the run had never changed, for every framework."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from syn2co_ray.spec.identity import spec_hash
from syn2co_ray.submit.prepare import PreparedRun
from syn2co_ray.train.checkpoint import Checkpoint, load_newest
from tests.methods.gloo_ranks import TRAINED

from .gloo_ranks import run_ranks
from .local_run import TINY, local_loop, prepared

pytestmark = pytest.mark.usefixtures("one_thread")

STOP_AT, END = 2, 5
Losses = dict[int, float]


def run_of(folder: Path, name: str) -> PreparedRun:
    """Plain SGD: AdamW makes large steps also of gradients that are zero but for rounding."""
    augment: dict[str, Any] = {"recipe": "byol", "image_size": 32}
    if name == "dino":
        augment = {"recipe": "dino", "image_size": 32, "local_views": 2, "local_image_size": 16}
    method = TRAINED[name] | ({"classes": 10} if name == "supervised" else {})
    optimizer = {"name": "sgd", "learning_rate_base": 0.02, "warmup_epochs": 0}
    changes = {"method": method, "augment": augment, "train.optimizer": optimizer, "train.epochs": 1}
    return prepared(
        folder / name,
        *(f"{key}={json.dumps(value)}" for key, value in changes.items()),
        text=TINY.replace("{folder}/digits", str(folder.parent / "digits")),
    )


def rank_of_all(
    rank: int, world_size: int, group: Any, folder: Path, stop_at: int | None
) -> dict[str, Losses]:
    """Every framework in turn, from its newest checkpoint on."""
    losses = {}
    for name in TRAINED:
        loop = local_loop(
            run_of(folder, name),
            rank=rank,
            world_size=world_size,
            control_group=group,
            stop_before_step=stop_at,
        )
        loop.run_to_end()
        losses[name] = loop.losses  # type: ignore[attr-defined]
    return losses


def train(folder: Path, world_size: int, stop_at: int | None = None) -> dict[str, Losses]:
    for name in TRAINED:
        run_of(folder, name)  # as a driver does before there are ranks
    if world_size == 1:
        return rank_of_all(0, 1, None, folder, stop_at)
    return run_ranks(rank_of_all, world_size, folder, folder, stop_at)[0]


def newest(folder: Path, name: str) -> Checkpoint:
    run = run_of(folder, name)
    checkpoint, _ = load_newest(run.run.store, spec_hash(run.job))
    assert checkpoint is not None
    return checkpoint


def distance(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Length of the difference as a part of the expected tensor's, or of 1 where that is shorter."""
    difference, length = got.double() - expected.double(), expected.double().norm()
    return float(difference.norm() / length.clamp(min=1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds folders of runs and, beside them, the images of all."""
    return tmp_path_factory.mktemp("world_sizes")


@pytest.fixture(scope="module")
def straight(folder: Path) -> tuple[Path, dict[str, Losses]]:
    """Every framework trained on one rank from the first step to the last."""
    return folder / "straight", train(folder / "straight", 1)


@pytest.fixture(scope="module")
def stopped(folder: Path) -> tuple[Path, dict[str, Losses]]:
    """The same on two ranks, stopped on the way."""
    return folder / "stopped", train(folder / "stopped", 2, STOP_AT)


@pytest.mark.parametrize("world_size", [1, 4])
def test_checkpoint_of_two_ranks_continues_on(
    world_size: int,
    straight: tuple[Path, dict[str, Losses]],
    stopped: tuple[Path, dict[str, Losses]],
) -> None:
    folder, first = stopped
    resumed = folder.with_name(f"resumed_on_{world_size}")
    shutil.copytree(folder, resumed)
    last = train(resumed, world_size)
    for name, expected in straight[1].items():
        losses = first[name] | last[name]
        assert list(losses) == list(range(1, END + 1))
        assert newest(folder, name).state["world_size"] == 2
        assert losses == pytest.approx(expected, rel=1e-5), name
        got, want = newest(resumed, name), newest(straight[0], name)
        assert got.step == want.step == END
        assert got.state["resumed_from_steps"] == [STOP_AT]
        for tensors, expected_tensors in ((got.method, want.method), (got.optimizer, want.optimizer)):
            assert tensors.keys() == expected_tensors.keys()
            for key, tensor in tensors.items():
                assert distance(tensor, expected_tensors[key]) < 1e-3, f"{name} {key}"
