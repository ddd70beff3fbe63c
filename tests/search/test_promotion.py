"""Scheduler asha_promotion: who is stopped, who is taken up again, and what a killed driver changes (nothing)."""

from __future__ import annotations

import pytest

from syn2co_ray.search.leaderboard import leaderboard
from syn2co_ray.search.promotion import trials_left
from syn2co_ray.search.records import Evaluation, Record

from .fakes import EPOCHS, Cluster, run_to_end, search_on

PROMOTION = "scheduler={name: asha_promotion, grace_epochs: 2, reduction_factor: 3}"
"""Rungs at 2 and 6 of 10 epochs: two of six pass the first; none of two the second, so that the best is the last one."""


def coldest_first(trial, epoch: int) -> float:
    return 10 * (0.7 - trial.point["method.temperature"]) * epoch


def epochs_of(search) -> list[int]:
    return [record.evaluations[-1].epoch for record in search.known.values()]


@pytest.mark.parametrize("concurrent", [1, 2, 3, 6])
def test_the_best_part_of_each_rung_goes_on_and_the_best_of_all_finishes(tmp_path, concurrent):
    cluster = Cluster(coldest_first)
    search, _ = search_on(tmp_path, cluster, PROMOTION, concurrent=concurrent)
    run_to_end(search)
    assert [record.status for record in search.known.values()] == ["finished", *["stopped"] * 5]
    assert epochs_of(search) == [EPOCHS, 6, 2, 2, 2, 2]
    assert leaderboard(search.spec, search.known.values())[0].point_number == 0


def test_first_trials_that_are_bad_do_not_train_on(tmp_path):
    # With asha they do: when they come to a rung, there is nothing better yet.
    search, _ = search_on(tmp_path, Cluster(), PROMOTION, concurrent=2)
    run_to_end(search)
    assert epochs_of(search)[:2] == [2, 2]
    tunes, _ = search_on(tmp_path / "tunes", Cluster(), PROMOTION.replace("_promotion", ""), concurrent=2)
    run_to_end(tunes)
    assert epochs_of(tunes)[:2] == [EPOCHS, EPOCHS]
    assert sum(epochs_of(search)) < sum(epochs_of(tunes))


def test_a_trial_that_is_among_the_best_when_it_comes_to_a_rung_is_not_interrupted(tmp_path):
    cluster = Cluster()
    search, _ = search_on(tmp_path, cluster, PROMOTION, concurrent=1)
    run_to_end(search)
    assert epochs_of(search) == [2, 2, 6, 6, EPOCHS, EPOCHS]  # each better than all before
    assert cluster.started == [0, 1, 2, 3, 4, 5]


def test_a_stopped_trial_is_taken_up_when_later_ones_are_worse(tmp_path):
    cluster = Cluster(coldest_first)
    search, lines = search_on(tmp_path, cluster, PROMOTION, concurrent=1)
    run_to_end(search)
    # Alone at its rung trial 0 waits; with 1 and 2 it is the best of three, and is taken up before 3 starts.
    assert cluster.started[:4] == [0, 1, 2, 0]
    assert any(line.startswith("trial 0 goes on") for line in lines)
    epochs = [evaluation.epoch for evaluation in search.known[0].evaluations]
    assert epochs == list(range(1, len(epochs) + 1))


def test_a_failed_trial_takes_no_place_of_a_rung(tmp_path):
    cluster = Cluster(coldest_first)
    cluster.fails[0] = [None, 4]  # after it was taken up
    search, _ = search_on(tmp_path, cluster, PROMOTION, "retries=0", concurrent=6)
    run_to_end(search)
    assert search.known[0].status == "failed"
    assert search.known[1].status == "finished"


@pytest.mark.parametrize("minutes_until_killed", [2, 3, 4, 7])
@pytest.mark.parametrize("curve", [coldest_first, lambda trial, epoch: trial.number * 7 % 5 + epoch / 100])
def test_a_search_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    tmp_path, minutes_until_killed, curve
):
    straight, _ = search_on(tmp_path / "straight", Cluster(curve), PROMOTION, concurrent=1)
    run_to_end(straight)
    cluster, now_s, left = Cluster(curve), 0.0, True
    while left:
        part, _ = search_on(tmp_path / "killed", cluster, PROMOTION, concurrent=1, now_s=now_s)
        for _ in range(minutes_until_killed):
            left = part.step(now_s)
            now_s += 60
        assert now_s < 60 * 1000
    assert trials_left(part.spec, part.known) == []
    assert {n: r.status for n, r in part.known.items()} == {n: r.status for n, r in straight.known.items()}
    passed = {number: record.passed_epochs for number, record in part.known.items()}
    assert passed == {number: record.passed_epochs for number, record in straight.known.items()}


def test_a_search_whose_trials_have_all_ended_is_not_over_while_some_are_to_be_taken_up(tmp_path):
    search, _ = search_on(tmp_path, Cluster(), PROMOTION, concurrent=6)
    for number in range(6):
        record = Record(number, number, {}, 0, f"run-{number}", "stopped", [Evaluation(2, number % 4, 0.0)])
        search.known[number] = record
    assert trials_left(search.spec, search.known) == [2, 3]
