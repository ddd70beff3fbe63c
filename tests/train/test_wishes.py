"""What a running training can be asked for, and checkpoints that are published beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.train import loop as loop_module
from syn2co_ray.train.checkpoint_files import complete_steps
from syn2co_ray.train.loop import TrainLoop
from syn2co_ray.train.uploads import Uploads
from syn2co_ray.train.wish import Wish

from .gloo_ranks import run_ranks
from .local_run import local_loop, prepared

EVERY_EPOCH = [5, 10, 15, 20]
KEEP_ALL = "train.checkpoint.keep=100"


def wishing(loop: TrainLoop, wishes: dict[int, Wish]) -> None:
    """The loop is asked for these before the step after so many."""
    loop.context.wish = lambda: wishes.get(loop.step, Wish.GO_ON)


def test_a_wished_checkpoint_is_published_and_training_goes_on(tmp_path):
    run = prepared(tmp_path, KEEP_ALL)
    loop = local_loop(run)
    wishing(loop, {3: Wish.CHECKPOINT, 5: Wish.CHECKPOINT})
    assert loop.run_to_end().status == "finished"
    assert complete_steps(run.run.store) == sorted({3, *EVERY_EPOCH})


def test_a_pause_begins_when_the_state_is_published_and_loses_no_step(tmp_path):
    run = prepared(tmp_path, KEEP_ALL)
    loop = local_loop(run)
    wishing(loop, {7: Wish.PAUSE})
    seen: list[tuple[int, list[int]]] = []
    loop.context.pause = lambda step: seen.append((step, complete_steps(run.run.store)))
    loop.run_to_end()
    assert seen == [(7, [5, 7])]
    straight = local_loop(prepared(tmp_path / "straight"))
    straight.run_to_end()
    assert loop.losses == straight.losses  # type: ignore[attr-defined]


def test_a_checkpoint_is_published_when_the_last_one_is_old(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(loop_module.time, "monotonic", lambda: clock[0])
    run = prepared(tmp_path, KEEP_ALL, "train.checkpoint.every_minutes=1")
    loop = local_loop(run)
    # Every step takes a quarter of a minute.
    loop.context.keys_seen = lambda step, keys: clock.__setitem__(0, clock[0] + 15.0)
    loop.run_to_end()
    assert complete_steps(run.run.store) == [4, 5, 9, 10, 14, 15, 19, 20]


def publishing(loop: TrainLoop, monkeypatch: pytest.MonkeyPatch, publish: Callable[..., str]) -> None:
    monkeypatch.setattr(loop_module, "save_checkpoint", publish)


def test_training_goes_on_while_a_checkpoint_is_published(tmp_path, monkeypatch):
    run = prepared(tmp_path)
    loop = local_loop(run)
    save, trained_on = loop_module.save_checkpoint, threading.Event()

    def publish(*args: object) -> str:
        assert trained_on.wait(60), "training stood still"
        return save(*args)

    publishing(loop, monkeypatch, publish)
    loop.context.keys_seen = lambda step, keys: trained_on.set() if step == 7 else None
    assert loop.run_to_end().status == "finished"
    assert complete_steps(run.run.store)[-1] == 20


def test_a_checkpoint_that_cannot_be_published_ends_the_run(tmp_path, monkeypatch):
    loop = local_loop(prepared(tmp_path))
    error = StorageError("s3://bucket/run", "no space", "", "make room")

    def publish(*args: object) -> str:
        raise error

    publishing(loop, monkeypatch, publish)
    with pytest.raises(StorageError, match="no space"):
        loop.run_to_end()
    assert loop.step <= 10


def fault_of_a_rank(
    rank: int, world_size: int, group: Any, folder: Path, broken_at: int, wishes: dict[int, Wish]
) -> str:
    """What a rank ends with when rank 0 alone can write no checkpoints from a step on."""
    run = prepared(folder / f"rank-{rank}")
    loop = local_loop(run, rank=rank, world_size=world_size, control_group=group)

    def break_store(step: int, keys: list[str]) -> None:
        if rank == 0 and step == broken_at:
            checkpoints = Path(run.run.store.uri) / "checkpoints"
            if checkpoints.exists():
                checkpoints.rename(folder / "away")
            checkpoints.write_text("no folder")

    loop.context.keys_seen = break_store
    if rank == 0:
        wishing(loop, wishes)
    with pytest.raises(StorageError) as caught:
        loop.run_to_end()
    return str(caught.value)


@pytest.mark.parametrize(
    ("broken_at", "wishes"),
    [(2, {}), (2, {3: Wish.PAUSE}), (19, {})],
    ids=["within", "before a pause", "at the end"],
)
def test_all_ranks_end_with_a_fault_that_one_of_them_alone_meets(tmp_path, broken_at, wishes):
    """Not by waiting for it until a collective times out, and not with the words of that."""
    first, second = run_ranks(fault_of_a_rank, 2, tmp_path, tmp_path, broken_at, wishes)
    assert first == second
    assert "rank-0" in first
    assert "it is a file, not a folder" in first


def test_uploads_come_one_after_the_other():
    uploads, order = Uploads(), []
    gate = threading.Event()
    uploads.start(lambda: (gate.wait(60), order.append(1))[1])
    threading.Timer(0.05, gate.set).start()
    uploads.start(lambda: order.append(2))
    uploads.finish()
    uploads.finish()
    assert order == [1, 2]
