"""A run that begins with what another one has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from syn2co_ray.spec.errors import CheckpointError
from syn2co_ray.train.loop import TrainLoop

from .local_run import local_loop, prepared


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainLoop]:
    """A finished run of one epoch."""
    folder = tmp_path_factory.mktemp("first")
    loop = local_loop(prepared(folder, "train.epochs=1", "train.optimizer.warmup_epochs=0"))
    loop.run_to_end()
    return folder, loop


def second(first: tuple[Path, TrainLoop], *overrides: str) -> TrainLoop:
    folder, loop = first
    start = f"train.start_from.run={loop.run.store.uri}"
    job = prepared(
        folder, "name=second", "train.epochs=1", "train.optimizer.warmup_epochs=0", start, *overrides
    )
    return local_loop(job, stop_before_step=0)


def state(loop: TrainLoop) -> dict[str, torch.Tensor]:
    return dict(loop.trainer.method.state_dict())


def test_networks_and_queues_are_those_of_the_other_run_and_the_clock_is_not(first: Any) -> None:
    loop = second(first)
    outcome = loop.run_to_end()
    assert outcome.notes == [f"started from step 5 of {first[1].run.store.uri}"]
    assert outcome.resumed_from_steps == []
    ours, theirs = state(loop), state(first[1])
    assert ours.pop("momentum.last_step") == -1
    assert theirs.pop("momentum.last_step") == 4
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not loop.trainer.optimizer.state


def test_queues_of_another_size_are_refused_with_the_option_to_refill(first: Any) -> None:
    loop = second(first, "method.queue_size_features=64")
    with pytest.raises(CheckpointError) as caught:
        loop.run_to_end()
    assert str(caught.value) == (
        f"{first[1].run.store.uri}: queue_1 holds 72 features of 16; allowed: 64 features of 16, as in the job; "
        "next: set method.queue_size_features to the checkpoint's, or start with random queues: "
        "train.start_from.queues=refill"
    )


def test_refilled_queues_are_those_of_a_new_run(first: Any) -> None:
    size = "method.queue_size_features=64"
    loop = second(first, size, "train.start_from.queues=refill")
    before = {name: value.clone() for name, value in state(loop).items() if name.startswith("queue")}
    outcome = loop.run_to_end()
    assert outcome.notes[0].endswith("queue_1 and queue_2 filled anew")
    ours, theirs = state(loop), state(first[1])
    assert all(torch.equal(ours[name], value) for name, value in before.items())
    assert torch.equal(ours["encoder.cls_token"], theirs["encoder.cls_token"])


def test_other_networks_are_refused(first: Any) -> None:
    loop = second(first, "method.hidden_features=40")
    with pytest.raises(
        CheckpointError, match=r"other networks than the job's: projector.0.weight is \(48, 32\)"
    ):
        loop.run_to_end()


@pytest.mark.parametrize(
    ("step", "got"), [("3", "no whole checkpoint of step 3; allowed: one of the steps 5")]
)
def test_a_checkpoint_that_is_not_there_is_refused(first: Any, step: str, got: str) -> None:
    with pytest.raises(CheckpointError, match=got):
        second(first, f"train.start_from.step={step}").run_to_end()


def test_a_folder_without_a_run_is_refused(first: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no whole checkpoint; allowed: the folder of a run"):
        second(first, f"train.start_from.run={tmp_path}").run_to_end()
