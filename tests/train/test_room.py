"""Where GPUs go: fractions are of one GPU, whole ones lie on one node."""

from __future__ import annotations

import pytest

from syn2co_ray.train.room import Room, gpus_fit, whole_gpus


@pytest.mark.parametrize(
    ("node_gpus", "requests", "fit"),
    [
        ([], [], True),
        ([], [0.0, 0.0], True),
        ([], [0.25], False),
        ([4], [1] * 4, True),
        ([4], [1] * 4 + [0.25], False),  # a whole GPU is not shared
        ([5], [1] * 4 + [0.25] * 4, True),
        ([4], [0.75] * 4 + [0.25] * 4, True),
        ([1], [0.6, 0.4], True),
        ([1.2], [0.6, 0.6], False),
        ([1, 1], [0.6, 0.6], True),
        ([2], [0.6] * 3, False),  # 1.8 in sum
        ([1, 1], [2], False),  # whole GPUs of one process lie on one node
        ([1, 2], [2, 0.5, 0.5], True),
        ([2, 2], [2, 1, 1], True),
        ([1], [0.1] * 10, True),
        ([1], [0.3333] * 3, True),
    ],
)
def test_gpus_are_packed_as_ray_gives_them(node_gpus, requests, fit):
    assert gpus_fit(node_gpus, requests) == fit
    assert gpus_fit(node_gpus, list(reversed(requests))) == fit


@pytest.mark.parametrize(
    ("requests", "gpus"), [([], 0), ([0.6, 0.6], 2), ([1, 1, 0.25], 3), ([2, 0.5, 0.5], 3), ([0.25] * 5, 2)]
)
def test_fewest_gpus_that_hold_all_requests(requests, gpus):
    assert whole_gpus(requests) == gpus
    with pytest.raises(ValueError, match="fraction above 1"):
        whole_gpus([1.5])


def test_workers_leave_actors_their_part_of_a_gpu():
    room = Room(counts=(1, 2, 4), cpus_each=1.0, gpus_each=0.75, beside=((1.0, 0.5),))
    assert room.fitting([{"CPU": 9.0, "GPU": 4.0}]) == 2  # 4 x 0.75 + 0.5 = 3.5, but no GPU has 0.5 left
    assert room.fitting([{"CPU": 9.0, "GPU": 5.0}]) == 4
