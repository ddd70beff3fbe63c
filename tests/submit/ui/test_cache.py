"""Values are kept for their time, errors are not, and the oldest give way."""

from __future__ import annotations

import threading

import pytest

from syn2co_ray.submit.ui.cache import Cache


def test_a_value_is_made_once_in_its_time() -> None:
    now, made = [0.0], []
    cache = Cache(10, clock=lambda: now[0])

    def make() -> int:
        made.append(now[0])
        return len(made)

    assert [cache.get("a", 5.0, make) for _ in range(3)] == [1, 1, 1]
    now[0] = 5.0
    assert cache.get("a", 5.0, make) == 2
    assert cache.get("a", 100.0, make) == 2


def test_an_error_is_not_kept() -> None:
    cache = Cache(10)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", 5.0, lambda: 1 / 0)
    assert cache.get("a", 5.0, lambda: 3.0) == 3.0


def test_the_oldest_give_way() -> None:
    cache, made = Cache(2), []
    for key in ("a", "b", "c", "b", "a"):
        cache.get(key, 100.0, lambda key=key: made.append(key))
    assert made == ["a", "b", "c", "a"]


def test_those_who_ask_at_once_wait_for_one() -> None:
    cache, started, go_on, made = Cache(10), threading.Event(), threading.Event(), []

    def make() -> str:
        made.append(1)
        started.set()
        go_on.wait(30)
        return "value"

    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("a", 100.0, make))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert (found, made) == (["value"] * 4, [1])
