"""The search over runs that are played: who is started, stopped, tried again, resumed."""

from __future__ import annotations

import pytest

from syn2co_ray.search.leaderboard import leaderboard

from .fakes import EPOCHS, TEXT, Cluster, by_temperature, run_to_end, search_on


def statuses(search) -> list[str]:
    return [record.status for record in search.known.values()]


def test_every_trial_runs_once_never_more_at_a_time_than_there_is_room_for(tmp_path):
    cluster = Cluster()
    search, lines = search_on(tmp_path, cluster)
    assert run_to_end(search) == 2
    assert cluster.started == [0, 1, 2, 3, 4, 5]
    assert statuses(search) == ["finished"] * 6
    assert [record.value for record in search.known.values()] == pytest.approx([10, 20, 30, 40, 50, 60])
    assert "trial 5 finished after 10 epochs, knn 60" in lines
    assert "trial 0 starts: method.temperature=0.1" in lines


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_bad_trials_are_stopped_early_and_the_best_one_finishes(tmp_path, scheduler):
    cluster = Cluster(lambda trial, epoch: 10 * (0.7 - trial.point["method.temperature"]) * epoch)
    search, _ = search_on(tmp_path, cluster, f"scheduler={scheduler}", concurrent=6)
    run_to_end(search)
    assert statuses(search)[0] == "finished"
    assert "stopped" in statuses(search)
    stopped = [record for record in search.known.values() if record.status == "stopped"]
    assert all(0 < record.evaluations[-1].epoch < EPOCHS for record in stopped)
    assert leaderboard(search.spec, search.known.values())[0].point_number == 0


@pytest.mark.parametrize("metric", ["loss", "rankme"])
def test_early_stopping_judges_by_the_searchs_own_metric(tmp_path, metric):
    # Trial 0 has the least loss, or the highest rank.
    heat = (
        by_temperature
        if metric == "loss"
        else (lambda trial, epoch: 10 * epoch - by_temperature(trial, epoch))
    )
    search, _ = search_on(tmp_path, Cluster(heat), "scheduler=asha", f"metric={metric}", concurrent=6)
    run_to_end(search)
    assert search.known[0].status == "finished"
    assert "stopped" in statuses(search)
    assert leaderboard(search.spec, search.known.values())[0].point_number == 0


def test_what_is_measured_at_the_end_only_has_no_value_before(tmp_path):
    search, _ = search_on(tmp_path, Cluster(), "metric=linear", "base.evaluate.linear={}")
    for minute in range(4):
        search.step(60.0 * minute)
    search.close("stopped")
    run_to_end(search)
    assert [record.value for record in search.known.values()] == [None, None]
    assert search.known[0].evaluations


def test_no_trial_is_stopped_before_the_grace_epochs(tmp_path):
    search, _ = search_on(tmp_path, Cluster(), "scheduler={name: asha, grace_epochs: 4}", concurrent=6)
    run_to_end(search)
    assert min(record.evaluations[-1].epoch for record in search.known.values()) >= 4


def test_a_killed_driver_costs_nothing_that_ended_and_running_trials_go_on(tmp_path):
    cluster = Cluster()
    search, _ = search_on(tmp_path, cluster)
    for minute in range(15):  # and then no more: as if killed
        search.step(60.0 * minute)
    ended = [number for number, record in search.known.items() if record.has_ended]
    running = list(search.active)
    assert ended
    assert running
    cluster.started.clear()
    again, lines = search_on(tmp_path, cluster)
    run_to_end(again)
    assert not set(ended) & set(cluster.started)
    assert cluster.started == [*running, *range(running[-1] + 1, 6)]
    assert any(line.startswith(f"trial {running[0]} goes on") for line in lines)
    assert statuses(again) == ["finished"] * 6
    epochs = [evaluation.epoch for evaluation in again.known[running[0]].evaluations]
    assert epochs == list(range(1, EPOCHS + 1))  # none twice, none missing
    assert again.wall_s > 14 * 60  # both commands


def test_a_killed_driver_forgets_no_hours_of_trials_that_were_not_measured_yet(tmp_path):
    cluster = Cluster(gpus_each=8.0, looks_per_epoch=10)
    search, _ = search_on(tmp_path, cluster)
    for second in range(0, 50, 10):  # and then no more; the first evaluation comes later
        search.step(float(second))
    assert not any(record.evaluations for record in search.known.values())
    again, _ = search_on(tmp_path, cluster)
    assert search.gpu_hours >= again.gpu_hours > search.gpu_hours / 2 > 0


@pytest.mark.parametrize("minutes_until_killed", [2, 3, 4])
def test_a_resumed_search_stops_the_trials_that_an_undisturbed_one_stops(tmp_path, minutes_until_killed):
    options = ("scheduler=asha",)
    straight, _ = search_on(tmp_path / "straight", Cluster(), *options)
    run_to_end(straight)
    cluster = Cluster()
    now_s = 0.0
    for _ in range(8):  # killed again and again, also between the decision and the end of a trial
        part, _ = search_on(tmp_path / "killed", cluster, *options, now_s=now_s)
        for _ in range(minutes_until_killed):
            part.step(now_s)
            now_s += 60
    last, _ = search_on(tmp_path / "killed", cluster, *options, now_s=now_s)
    run_to_end(last, now_s=now_s)
    assert statuses(last) == statuses(straight)


def test_a_trial_that_was_to_be_stopped_when_its_driver_died_trains_no_further(tmp_path):
    cluster = Cluster(lambda trial, epoch: 10 * (0.7 - trial.point["method.temperature"]) * epoch)
    search, _ = search_on(tmp_path, cluster, "scheduler=asha", concurrent=6)
    now_s = 0.0
    while not (decided := [number for number, active in search.active.items() if active.stopping]):
        search.step(now_s)
        now_s += 60
    epochs = {number: len(search.known[number].evaluations) for number in decided}
    again, _ = search_on(tmp_path, cluster, "scheduler=asha", concurrent=6, now_s=now_s)
    run_to_end(again, now_s=now_s)
    assert {number: len(again.known[number].evaluations) for number in decided} == epochs
    assert {again.known[number].status for number in decided} == {"stopped"}


def test_a_search_that_was_stopped_and_one_whose_budget_is_used_up_go_on(tmp_path):
    cluster = Cluster(gpus_each=1.0)
    gpus = ("base.train.workers={min: 1, max: 1, gpus_each: 1}", "budget.gpu_hours=0.2")
    search, _ = search_on(tmp_path, cluster, *gpus)
    run_to_end(search)
    assert search.closing == "budget.gpu_hours of 0.2 is used up"
    assert 0.2 <= search.gpu_hours < 0.3
    assert "interrupted" in statuses(search)
    assert len(search.known) < 6
    more, _ = search_on(tmp_path, cluster, gpus[0])
    more.step(0.0)
    more.close("stopped")
    run_to_end(more)
    assert "running" not in statuses(more)
    rest, _ = search_on(tmp_path, cluster, gpus[0])
    run_to_end(rest)
    assert statuses(rest) == ["finished"] * 6


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("wall_hours=0.1", "budget.wall_hours of 0.1 is used up"),
        ("cost=1, price_per_gpu_hour=10", "budget.cost of 1 is used up"),
    ],
)
def test_time_and_money_end_a_search_in_order(tmp_path, budget, words):
    workers = "base.train.workers={min: 1, max: 1, gpus_each: 1}"
    values = ", ".join(part.replace("=", ": ") for part in budget.split(", "))
    search, _ = search_on(tmp_path, Cluster(gpus_each=1.0), workers, f"budget={{{values}}}")
    run_to_end(search)
    assert search.closing == words
    assert "running" not in statuses(search)
    assert len(search.known) < 6


def test_a_point_that_is_suggested_and_cannot_be_a_job_is_refused_and_the_search_goes_on(tmp_path):
    """Both ends are jobs; between them are sizes that are no multiple of the patch size 8."""
    text = TEXT.replace("searcher: grid", "searcher: optuna\ntrials: 12").replace(
        "method.temperature: {grid: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}",
        "augment.image_size: {randint: [24, 32]}",
    )
    search, lines = search_on(tmp_path, Cluster(lambda trial, epoch: epoch), text=text)
    run_to_end(search)
    sizes = {number: record.point["augment.image_size"] for number, record in search.known.items()}
    refused = {number for number, record in search.known.items() if record.status == "failed"}
    assert refused == {number for number, size in sizes.items() if size not in (24, 32)}
    for number in refused:
        assert f"{sizes[number]} is not a multiple of the patch size 8" in search.known[number].error
        assert any(line.startswith(f"trial {number} refused: ") for line in lines)
    assert set(statuses(search)) <= {"failed", "finished"}
    assert refused


def test_a_failed_trial_is_recorded_tried_again_and_the_search_goes_on(tmp_path):
    cluster = Cluster()
    cluster.fails = {1: [3, None], 2: [2, 2]}
    search, lines = search_on(tmp_path, cluster)
    run_to_end(search)
    assert statuses(search) == ["finished", "finished", "failed", "finished", "finished", "finished"]
    assert search.known[1].failures == 1
    assert (search.known[2].failures, search.known[2].error) == (2, "no memory")
    assert "trial 1 failed, is tried again: no memory" in lines
    assert "trial 2 failed: no memory" in lines


def test_seeds_of_a_point_are_trials_of_their_own(tmp_path):
    cluster = Cluster(lambda trial, epoch: 10 * trial.point["method.temperature"] * epoch + trial.job.seed)
    search, _ = search_on(tmp_path, cluster, "seeds=3")
    run_to_end(search)
    assert [record.seed for record in search.known.values()] == [1, 2, 3] * 6
    assert len({record.run for record in search.known.values()}) == 18
    best = leaderboard(search.spec, search.known.values())[0]
    assert (best.point, best.value, best.deviation, best.seeds_finished) == (
        "method.temperature=0.6",
        pytest.approx(62),
        pytest.approx(1),
        3,
    )


def test_optuna_comes_closer_to_the_best_point_and_resumes(tmp_path):
    text = TEXT.replace("searcher: grid", "searcher: optuna\ntrials: 30").replace(
        "{grid: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}",
        "{uniform: [0.05, 1.0]}\n  method.queue_size_features: {choice: [64, 128]}\n"
        "  method.momentum: {quniform: [0.8, 0.95, 0.05], when: {method.queue_size_features: 128}}",
    )

    def curve(trial, epoch):
        right = trial.point.get("method.momentum") == 0.9
        return epoch * (5 - abs(trial.point["method.temperature"] - 0.7) + right)

    cluster = Cluster(curve)
    first, _ = search_on(tmp_path, cluster, text=text)
    for minute in range(120):
        first.step(60.0 * minute)
    known = {number: record.point for number, record in first.known.items()}
    rest, _ = search_on(tmp_path, cluster, text=text)
    run_to_end(rest)
    points = [rest.known[number].point for number in range(30)]
    assert points[: len(known)] == [known[number] for number in range(len(known))]
    assert all(("method.momentum" in p) == (p["method.queue_size_features"] == 128) for p in points)
    distance = [abs(point["method.temperature"] - 0.7) for point in points]
    assert sum(distance[15:]) < sum(distance[:15])
    assert sum(point.get("method.momentum") == 0.9 for point in points[15:]) > 7
