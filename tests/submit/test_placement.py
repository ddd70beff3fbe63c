"""Where views are advised to be made, and what that can feed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from syn2co_ray.submit.placement import Situation, advise, images_per_s

# 4 GPUs, each with a worker of 4 CPUs; a read task of 0.5; ImageNet-like JPEGs.
THERE = Situation(
    cpus=64, gpus=4, workers=4, worker_cpus_each=4, worker_gpus_each=1, reader_cpus_each=0.5, threads_each=3,
    image_bytes=53_300, view_sizes=(224, 224),
)  # fmt: skip


def test_one_cpu_makes_what_the_benchmark_measured():
    assert images_per_s(THERE, "actors on CPUs", 1) == pytest.approx(530, rel=0.01)
    assert images_per_s(THERE, "actors on CPUs", 4) == pytest.approx(2120, rel=0.01)
    small = replace(THERE, image_bytes=2000, view_sizes=(32, 32))
    assert images_per_s(small, "actors on CPUs", 1) == pytest.approx(2207, rel=0.01)
    assert images_per_s(replace(THERE, image_bytes=0), "trainer", 1) == pytest.approx(1e5)
    local = replace(THERE, view_sizes=(224, 224, *[96] * 8))
    assert 200 < images_per_s(local, "actors on CPUs", 1) < 300


@pytest.mark.parametrize(
    ("changes", "place", "rate"),
    [
        ({}, "actors on CPUs", 47 * 532),  # 64 - 4 x 4 - 0.5 = 47.5 CPUs
        ({"cpus": 32.5}, "actors on CPUs", 16 * 532),  # exactly 4 a GPU
        ({"cpus": 32}, "trainer", 12 * 1282),  # decoding alone: views are made on the GPUs that train
        ({"cpus": 32, "gpus": 5}, "actors with GPU fractions", 15 * 1282),
        ({"cpus": 16.5, "gpus": 5}, "trainer", 12 * 1282),  # no CPU to decode on beside that GPU
        ({"gpus": 0, "worker_gpus_each": 0}, "actors on CPUs", 47 * 532),
        ({"gpus": 0, "worker_gpus_each": 0, "cpus": 17}, "trainer", 12 * 532),
        (
            {"gpus": 0, "worker_gpus_each": 0, "cpus": 2, "worker_cpus_each": 0.5, "threads_each": 1},
            "trainer",
            2 * 532,
        ),
    ],
)
def test_advice_goes_by_what_is_left_beside_the_workers(changes, place, rate):
    advice = advise(replace(THERE, **changes))
    assert advice.place == place
    assert advice.images_per_s == pytest.approx(rate, rel=0.005)


def test_advice_names_its_numbers():
    assert advise(THERE).why == (
        "47.5 CPUs are left beside 4 workers and a read task, 11.9 for each GPU that trains"
    )
    assert (
        "3.9 for each GPU that trains, fewer than 4, and 1 GPUs"
        in advise(replace(THERE, cpus=32, gpus=5)).why
    )
