"""Trials that run at once have room for all that each of them needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from syn2co_ray.spec.errors import ResourceError
from syn2co_ray.submit.search_room import concurrent_trials, job_within_its_share
from tests.search.fakes import search_spec

HALVES = ("base.augment.actors={min: 1, max: 4, cpus_each: 0.5}", "base.data.reader_cpus_each=0.5")
GPU = "base.train.workers={min: 1, max: 8, gpus_each: 1}"


def search(*overrides: str):
    return search_spec(Path("x"), *HALVES, *overrides)


@pytest.mark.parametrize(("cpus", "count"), [(2, 1), (3.9, 1), (4, 2), (11.9, 5), (1000, 6)])
def test_as_many_as_fit_with_reader_and_actor_and_no_more_than_there_are(cpus, count):
    assert concurrent_trials(search(), cpus, [0]) == count


def test_gpus_are_the_scarce_resource_and_fractions_are_packed():
    assert concurrent_trials(search(GPU), 100, [2, 1]) == 3
    shared = "base.train.workers={min: 1, max: 1, gpus_each: 0.6}"
    assert concurrent_trials(search(shared), 100, [2]) == 2  # 0.6 + 0.6 is more than one GPU


def test_room_that_is_left_goes_to_workers_but_never_to_another_trials_share():
    spec = search("max_concurrent=2", GPU)
    job = job_within_its_share(spec.base, 2, 100, [4, 4])
    assert (job.train.workers.min, job.train.workers.max) == (1, 4)
    assert job_within_its_share(spec.base, 8, 100, [4, 4]).train.workers.max == 1


@pytest.mark.parametrize(("cpus", "actors"), [(4, 1), (4.9, 1), (5, 2), (6, 3), (100, 4)])
def test_view_actors_do_not_grow_into_another_trials_share(cpus, actors):
    pool = job_within_its_share(search().base, 2, cpus, [0]).augment.actors
    assert (pool.min, pool.max) == (1, actors)


def test_a_trial_that_never_fits_and_trials_that_would_wait_for_each_other_are_refused():
    with pytest.raises(ResourceError, match="ask for 2 CPUs"):
        concurrent_trials(search(), 1.5, [0])
    with pytest.raises(ResourceError, match=r"3 trials ask for 6 CPUs .*at most 2 on 4 CPUs"):
        concurrent_trials(search("max_concurrent=3"), 4, [0])
    assert concurrent_trials(search("max_concurrent=1"), 4, [0]) == 1


def test_the_most_demanding_point_counts():
    big = "space={train.workers: {grid: [1, 4]}}"
    assert concurrent_trials(search(big), 10, [0]) == 2
    with pytest.raises(ResourceError, match="ask for 5 CPUs"):
        concurrent_trials(search(big), 4, [0])
