"""A job asks for what it needs, takes the most workers that fit, or is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from syn2co_ray.spec.errors import ResourceError
from syn2co_ray.submit.resources import asked_resources, choose_workers
from tests.train.local_run import tiny_job

POOLS = ["augment.actors={min: 2, max: 5, cpus_each: 0.5, gpus_each: 0.25}", "data.reader_cpus_each=0.5"]


def test_all_workers_the_fewest_actors_and_a_reader_are_counted():
    job = tiny_job(Path("x"), *POOLS, "train.workers={min: 2, max: 4, cpus_each: 2, gpus_each: 1}")
    asked = asked_resources(job, 4)
    assert (asked.workers, asked.cpus, asked.gpus) == (4, 4 * 2 + 2 * 0.5 + 0.5, 4 + 2 * 0.25)


@pytest.mark.parametrize(("cpus", "workers"), [(100, 8), (9.5, 8), (9.4, 4), (5.5, 4), (3.5, 2)])
def test_the_largest_allowed_worker_count_that_fits_is_taken(cpus, workers):
    job = tiny_job(Path("x"), *POOLS, "train.workers={min: 2, max: 8}")
    assert choose_workers(job, cpus, 1).workers == workers  # 32 images: only 2, 4 and 8 split evenly


@pytest.mark.parametrize(("cpus", "gpus", "says"), [(3.4, 9, "3.4 CPUs"), (99, 0.4, "0.4 GPUs")])
def test_what_cannot_be_scheduled_is_refused_with_the_sum_and_what_to_do(cpus, gpus, says):
    job = tiny_job(Path("x"), *POOLS, "train.workers=2")
    with pytest.raises(
        ResourceError, match=rf"ask for 3.5 CPUs and 0.5 GPUs .*at most the cluster's.*{says}|{says}"
    ):
        choose_workers(job, cpus, gpus)
