"""Memory that runs out costs batch size, never images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from syn2co_ray.generate.fitting_batches import FittingBatches
from syn2co_ray.generate.pipeline import ImageMaker
from syn2co_ray.generate.slots import Conditions, Slot, image_seed, slot_of
from syn2co_ray.generate.weights import local_pipeline
from syn2co_ray.spec.source import ObjectStoreSpec

from .conftest import MakeJob


class SmallMemory:
    """A real pipeline on a device where more than so many images at once do not fit."""

    def __init__(self, maker: ImageMaker, images_max: int) -> None:
        self.maker, self.images_max = maker, images_max
        self.asked: list[int] = []

    def __call__(
        self, slots: Sequence[Slot], seeds: Sequence[int], originals: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        self.asked.append(len(slots))
        if len(slots) > self.images_max:
            raise torch.OutOfMemoryError
        return self.maker(slots, seeds, originals)


def test_a_batch_that_does_not_fit_is_halved_and_stays_small(make_job: MakeJob) -> None:
    job = make_job("class_conditional")
    maker = ImageMaker(job, local_pipeline(job.pipeline, ObjectStoreSpec()), "cpu")
    slots = [slot_of(job, Conditions(), number) for number in range(7)]
    seeds = [image_seed(job.seed, number, 0) for number in range(7)]
    small = SmallMemory(maker, images_max=2)
    fitting = FittingBatches(small, images_per_batch=7)
    images = fitting(slots, seeds, None)
    assert small.asked == [7, 4, 2, 2, 2, 1]
    assert fitting.images_per_batch == 2
    alone = np.concatenate([maker([slot], [seed]) for slot, seed in zip(slots, seeds, strict=True)])
    np.testing.assert_allclose(images, alone, atol=1e-4)

    with pytest.raises(torch.OutOfMemoryError):
        FittingBatches(SmallMemory(maker, images_max=0), images_per_batch=4)(slots, seeds, None)
