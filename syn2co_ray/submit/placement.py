"""Where to make views: advice from the resources there, for `syn2co plan`.

How fast a step will be is not known before it has run, so nothing here says what is wanted: it says what the
stream can feed at most, and from which step time on that becomes the bound. Figures are those of
`tests/benchmarks/bench_augment.py` on one core of an AMD EPYC; on other machines they are estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

DECODE_FIXED_S, DECODE_S_PER_BYTE = 0.01e-3, 0.77e-3 / 53_300
"""0.78 ms for JPEGs of 500 x 375 pixels; others in proportion to their bytes."""

VIEW_FIXED_S, VIEW_S_PER_PIXEL = 0.2e-3, 0.35e-3 / 224**2
"""OpenCV backend: 0.55 ms for a view of 224 pixels; with decoding and two of them 530 images a CPU second."""

CPUS_PER_GPU = 4
"""A rule of thumb: some 2,000 images/s of two 224 pixel views, about what a GPU uses up with a small ViT."""

Place = Literal["actors on CPUs", "actors with GPU fractions", "trainer"]


@dataclass(frozen=True)
class Situation:
    """What there is, and what a job does with it.

    Attributes:
        cpus: logical CPUs of the cluster.
        gpus: GPUs of the cluster.
        workers: training workers that will run, each with `worker_cpus_each` and `worker_gpus_each`.
        reader_cpus_each: logical CPUs of a read task.
        threads_each: threads that would make views in a worker.
        image_bytes: mean size of an encoded image.
        view_sizes: height and width in pixels of each view of a record.
    """

    cpus: float
    gpus: float
    workers: int
    worker_cpus_each: float
    worker_gpus_each: float
    reader_cpus_each: float
    threads_each: int
    image_bytes: float
    view_sizes: Sequence[int]

    @property
    def cpus_left(self) -> float:
        """Beside the workers and one read task."""
        return max(0.0, self.cpus - self.workers * self.worker_cpus_each - self.reader_cpus_each)

    @property
    def gpus_left(self) -> float:
        return max(0.0, self.gpus - self.workers * self.worker_gpus_each)

    @property
    def cpus_of_trainers(self) -> float:
        """That would make views in all workers together; without GPUs the steps want them too."""
        return self.workers * self.threads_each * min(1.0, self.worker_cpus_each)

    @property
    def decode_s(self) -> float:
        """CPU seconds to decode an image."""
        return DECODE_FIXED_S + self.image_bytes * DECODE_S_PER_BYTE

    @property
    def views_s(self) -> float:
        """CPU seconds to make the views of an image."""
        return sum(VIEW_FIXED_S + size**2 * VIEW_S_PER_PIXEL for size in self.view_sizes)


@dataclass(frozen=True)
class Advice:
    """Where to make views, why, and what that can feed at most.

    `images_per_s` is an upper limit: with a GPU it counts decoding alone, as views on one were not measured.
    """

    place: Place
    why: str
    images_per_s: float


def advise(there: Situation) -> Advice:
    """The placement for this situation, by what is left beside the workers."""
    place, why = _chosen(there)
    cpus = there.cpus_of_trainers if place == "trainer" else int(there.cpus_left)
    return Advice(place, why, images_per_s(there, place, cpus))


def images_per_s(there: Situation, place: Place, cpus: float) -> float:
    """What so many CPUs can feed at most when views are made there."""
    on_gpu = place == "actors with GPU fractions" or (place == "trainer" and there.worker_gpus_each > 0)
    return cpus / (there.decode_s + (0.0 if on_gpu else there.views_s))


def _chosen(there: Situation) -> tuple[Place, str]:
    left = f"{there.cpus_left:g} CPUs are left beside {there.workers} workers and a read task"
    if there.worker_gpus_each == 0:
        if there.cpus_left >= 1:
            return "actors on CPUs", left
        return "trainer", f"{left}; views take turns with the steps wherever they are made"
    per_gpu = there.cpus_left / (there.workers * there.worker_gpus_each)
    left += f", {per_gpu:.1f} for each GPU that trains"
    if per_gpu >= CPUS_PER_GPU:
        return "actors on CPUs", left
    if there.gpus_left >= 1 and there.cpus_left >= 1:
        return "actors with GPU fractions", f"{left}, fewer than {CPUS_PER_GPU}, and {there.gpus_left:g} GPUs"
    return "trainer", f"{left}, fewer than {CPUS_PER_GPU}, and no GPU: views are made on those that train"
