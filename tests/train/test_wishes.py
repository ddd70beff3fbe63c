"""What a running training can be asked for, and checkpoints that are published beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.train import loop as loop_module
from syn2co_ray.train.checkpoint_files import complete_steps
from syn2co_ray.train.loop import TrainLoop
from syn2co_ray.train.uploads import Uploads
from syn2co_ray.train.wish import Wish

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


def test_uploads_come_one_after_the_other():
    uploads, order = Uploads(), []
    gate = threading.Event()
    uploads.start(lambda: (gate.wait(60), order.append(1))[1])
    threading.Timer(0.05, gate.set).start()
    uploads.start(lambda: order.append(2))
    uploads.finish()
    uploads.finish()
    assert order == [1, 2]
