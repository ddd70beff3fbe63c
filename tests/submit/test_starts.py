"""What restarts cost, from the notes of the board."""

from __future__ import annotations

from typing import Any

from syn2co_ray.submit.starts import RestartLines, start_line, told_starts

STARTS: list[dict[str, Any]] = [
    {
        "first_step": 0,
        "reason": "",
        "last_step_before": 0,
        "last_step_before_at": None,
        "failed_at": None,
        "first_step_at": 1000.0,
        "workers": 2,
    },
    {
        "first_step": 40,
        "reason": "rank 1 failed",
        "last_step_before": 57,
        "last_step_before_at": 1100.0,
        "failed_at": 1104.0,
        "first_step_at": 1130.0,
        "workers": 1,
    },
    {
        "first_step": 80,
        "reason": "nodes came: 1 to 2 workers",
        "last_step_before": 80,
        "last_step_before_at": 1200.0,
        "failed_at": None,
        "first_step_at": None,
        "workers": None,
    },
]


def test_time_lost_is_counted_from_the_last_step_before() -> None:
    first, second = told_starts(STARTS)
    assert (first["reason"], first["lost_s"], first["replayed_steps"]) == ("", 0.0, 0)
    assert second == {
        "reason": "rank 1 failed",
        "workers": 1,
        "step": 40,
        "replayed_steps": 17,
        "noticed_after_s": 4.0,
        "lost_s": 30.0,
    }
    assert start_line(second) == (
        "restarted at step 40 with 1 workers (rank 1 failed): "
        "30 s lost, 4 s of them until noticed, 17 steps done again"
    )


def test_a_restart_is_told_when_it_begins_and_when_it_has_made_a_step() -> None:
    lines = RestartLines()
    under_way = STARTS[1] | {"first_step_at": None, "workers": None}
    assert list(lines.new(STARTS[:1])) == []
    assert list(lines.new([STARTS[0], under_way])) == ["rank 1 failed: the workers start again from step 40"]
    assert list(lines.new([STARTS[0], under_way])) == []
    begins, done = lines.new(STARTS)
    assert begins == "nodes came: 1 to 2 workers: the workers start again from step 80"
    assert done.startswith("restarted at step 40 with 1 workers (rank 1 failed)")
    assert list(lines.new(STARTS)) == []
