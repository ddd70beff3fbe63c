"""What a worker's side of the board posts, and when."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from syn2co_ray.train.board import BoardClient
from syn2co_ray.train.wish import Wish

LATER_S = 5.0


class _Method:
    """An actor's method: called with `.remote`, answered by `ray.get`."""

    def __init__(self, call: Any) -> None:
        self.remote = call


class _Board:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.posted: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.post = _Method(self.posted.put)
        self.newest: tuple[int, Wish] = (0, Wish.GO_ON)
        self.wished = _Method(lambda: self.newest)
        self.wishes_before = _Method(lambda: 0)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> BoardClient:
    monkeypatch.setattr("syn2co_ray.train.board.ray.get", lambda answer: answer)
    return BoardClient(_Board(), period_s=0.1)


def test_a_wish_made_while_the_worker_starts_is_heard_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's notice that it will go may come while torch is being imported."""
    monkeypatch.setattr("syn2co_ray.train.board.ray.get", lambda answer: answer)
    monkeypatch.setattr("syn2co_ray.train.board.ray.wait", lambda pending, timeout: (pending, []))
    board = _Board()
    board.newest = (1, Wish.PAUSE)
    client = BoardClient(board, period_s=0.0)
    assert [client.wish() for _ in range(6)].count(Wish.PAUSE) == 1


def row(step: int) -> dict[str, int]:
    return {"step": step, "total_steps": 100}


def test_steps_are_thinned_but_the_newest_one_of_a_burst_is_posted_without_another(client):
    for step in range(1, 11):
        client.show(row(step))
    posted = client.board.posted
    assert posted.get(timeout=LATER_S)["step"] == 1
    seen = posted.get(timeout=LATER_S)["step"]
    while seen != 10:  # a slow machine needs more than a period for ten steps
        newer = posted.get(timeout=LATER_S)["step"]
        assert newer > seen
        seen = newer
    with pytest.raises(queue.Empty):
        posted.get(timeout=3 * client.period_s)


def test_the_last_step_and_everything_but_steps_pass_at_once(client):
    client.show(row(1))
    client.show({"warning": "collapse"})
    client.show(row(100))
    posted = [client.board.posted.get(timeout=LATER_S) for _ in range(3)]
    assert posted == [row(1), {"warning": "collapse"}, row(100)]
