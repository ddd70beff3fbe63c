"""A job asks for what it needs, takes the most workers that fit, or is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from syn2co_ray.spec.errors import ResourceError
from syn2co_ray.submit.resources import asked_resources, choose_workers, room_for_workers
from tests.train.local_run import tiny_job

POOLS = ["augment.actors={min: 2, max: 5, cpus_each: 0.5, gpus_each: 0.25}", "data.reader_cpus_each=0.5"]


def test_all_workers_the_fewest_actors_and_a_reader_are_counted():
    job = tiny_job(Path("x"), *POOLS, "train.workers={min: 2, max: 4, cpus_each: 2, gpus_each: 1}")
    asked = asked_resources(job, 4)
    assert (asked.workers, asked.cpus, asked.gpus) == (4, 4 * 2 + 2 * 0.5 + 0.5, 4 + 2 * 0.25)


@pytest.mark.parametrize(("cpus", "workers"), [(100, 8), (9.5, 8), (9.4, 4), (5.5, 4), (3.5, 2)])
def test_the_largest_allowed_worker_count_that_fits_is_taken(cpus, workers):
    job = tiny_job(Path("x"), *POOLS, "train.workers={min: 2, max: 8}")
    assert choose_workers(job, cpus, [1]).workers == workers  # 32 images: only 2, 4 and 8 split evenly


@pytest.mark.parametrize(("cpus", "gpus", "says"), [(3.4, 9, "3.4 CPUs"), (99, 0.4, "0.4 GPUs")])
def test_what_cannot_be_scheduled_is_refused_with_the_sum_and_what_to_do(cpus, gpus, says):
    job = tiny_job(Path("x"), *POOLS, "train.workers=2")
    with pytest.raises(
        ResourceError, match=rf"ask for 3.5 CPUs and 0.5 GPUs .*at most the cluster's.*{says}|{says}"
    ):
        choose_workers(job, cpus, [gpus])


def test_workers_that_make_their_own_views_leave_no_actor_to_count():
    job = tiny_job(
        Path("x"), *POOLS, "augment.placement=trainer", "train.workers={min: 1, max: 4, cpus_each: 2}"
    )
    asked = asked_resources(job, 2)
    assert (asked.cpus, asked.gpus) == (2 * 2 + 0.5, 0)
    assert room_for_workers(job).beside == ((0.5, 0.0),)
    with pytest.raises(ResourceError) as caught:
        choose_workers(job, 1, [])
    assert "actor" not in f"{caught.value.fault.where} {caught.value.fault.got}"


@pytest.mark.parametrize(
    ("workers", "actors", "node_gpus", "chosen"),
    [
        ("{min: 2, max: 2, gpus_each: 1}", "{min: 4, max: 4, gpus_each: 0.25}", [2, 1], 2),
        ("{min: 2, max: 2, gpus_each: 0.75}", "{min: 2, max: 2, gpus_each: 0.25}", [2], 2),
        ("{min: 2, max: 4, gpus_each: 1}", "{min: 1, max: 1, gpus_each: 0.25}", [4], 2),
    ],
)
def test_fractions_of_gpus_are_budgeted_together(workers, actors, node_gpus, chosen):
    job = tiny_job(Path("x"), f"train.workers={workers}", f"augment.actors={actors}")
    assert choose_workers(job, 99, node_gpus).workers == chosen


@pytest.mark.parametrize(
    ("workers", "actors", "node_gpus", "says"),
    [
        (
            "{min: 4, max: 4, gpus_each: 1}",
            "{min: 4, max: 4, gpus_each: 0.25}",
            [4],
            "ask for 8.5 CPUs and 5 GPUs",
        ),
        ("{min: 2, max: 2, gpus_each: 0.6}", "{min: 3, max: 3, gpus_each: 0.6}", [3], "which need 5 GPUs"),
        ("{min: 1, max: 1, gpus_each: 2}", "1", [1, 1], "2 GPUs (1 + 1 on its nodes)"),
    ],
)
def test_gpus_that_no_gpu_can_give_are_refused(workers, actors, node_gpus, says):
    job = tiny_job(Path("x"), f"train.workers={workers}", f"augment.actors={actors}")
    with pytest.raises(ResourceError) as caught:
        choose_workers(job, 99, node_gpus)
    assert says in str(caught.value)
