"""Which stage bounds a run: the step itself, or the part of the stream that it waits for.

Every block of the stream carries the seconds that reading, decoding and augmentation took. Added up and
divided by the time that training went on, they say how many readers and makers of views were at work on
average; a stage at which nearly all of those there are were at work cannot give more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

WAIT_SHARE_MIN = 0.05
"""Below this data wait, the step itself is what takes the time."""

BUSY_SHARE_MIN = 0.7
"""A stage that is busy for this part of the time is taken for the one that is waited for. Not nearer to 1:
what Ray spends on moving blocks in and out of a process is not in the seconds that the process counts."""

STEPS_MIN = 5
"""Fewer steps say little: the first ones use up what the stream had ready."""

MOSTLY = 2 / 3
"""One of decoding and augmentation that takes this part of their time is named alone."""

SHORTER_SIDE_PER_VIEW = 8 / 7
"""Shorter side worth storing for a view of 1 pixel: 256 for views of 224, as is usual."""

SHRINKING_WORTHWHILE = 1.5
"""Images must be larger than worth storing by this factor before a smaller copy is advised."""

Stage = Literal[
    "model", "other workers", "reading", "decoding", "augmentation", "decoding and augmentation", "transfer"
]


@dataclass(frozen=True)
class StreamMeasured:
    """What one start of a run measured of its stream, over all workers.

    Attributes:
        steps: optimizer steps, the first one left out.
        workers: training workers.
        elapsed_s: time in those steps; `waited_s` of it until all workers had their images.
        fetch_s: time that the worker which waited longest waited for its own images.
        read_s, decode_s, augment_s: seconds that processes were busy with these, added up.
        makers: actors that made views; with `placement: trainer` the workers.
        shorter_side_px: mean of the shorter sides of the decoded images.
    """

    steps: int
    workers: int
    elapsed_s: float
    waited_s: float
    fetch_s: float
    read_s: float
    decode_s: float
    augment_s: float
    makers: int
    shorter_side_px: float

    @property
    def data_wait_share(self) -> float:
        return self.waited_s / self.elapsed_s


@dataclass(frozen=True)
class StreamResources:
    """What the stream had to work with.

    Attributes:
        placement: `augment.placement` of the job.
        actors_max, cpus_each, gpus_each: of the actors that make views.
        threads_each: threads that make views in a worker, with `placement: trainer`.
        readers_max: read tasks that have room at once.
        reader_cpus_each: CPUs of one.
        image_size: height and width of a view in pixels.
    """

    placement: Literal["actors", "trainer"]
    actors_max: int
    cpus_each: float
    gpus_each: float
    threads_each: int
    readers_max: int
    reader_cpus_each: float
    image_size: int


@dataclass(frozen=True)
class Bound:
    """The stage that bounds a run, and what would lift it, in words."""

    stage: Stage
    data_wait_share: float
    text: str


def bound_of(measured: StreamMeasured, there: StreamResources) -> Bound | None:
    """The verdict; None after fewer than `STEPS_MIN` steps."""
    if measured.steps < STEPS_MIN or measured.elapsed_s <= 0:
        return None
    stage, words = _stage_and_words(measured, there)
    wait = measured.data_wait_share
    return Bound(stage, wait, f"data wait {_percent(wait)}: bound by {words}")


def _stage_and_words(measured: StreamMeasured, there: StreamResources) -> tuple[Stage, str]:
    if measured.data_wait_share < WAIT_SHARE_MIN:
        return "model", "the model"
    fetching = measured.fetch_s / measured.elapsed_s
    if fetching < WAIT_SHARE_MIN:
        words = f"workers that wait for one another ({_percent(fetching)} for images): "
        return "other workers", words + "are their CPUs or GPUs shared with other work?"
    makers = measured.makers * (there.threads_each if there.placement == "trainer" else 1)
    making = _busy_share(measured.decode_s + measured.augment_s, makers, measured)
    reading = _busy_share(measured.read_s, there.readers_max, measured)
    if max(making, reading) < BUSY_SHARE_MIN:
        return "transfer", (
            f"moving blocks: readers were {_percent(reading)} and makers of views {_percent(making)} busy; "
            f"a faster network or object store, or {_fewer_bytes(there)}"
        )
    if reading > making:
        words = f"reading (read tasks {_percent(reading)} busy, {there.readers_max} fit at once): "
        return "reading", words + _faster_reading(measured, there)
    stage, number = _making_stage(measured), f", {makers} of {there.actors_max}"
    words = f"{stage} ({_who(measured, there)} {_percent(making)} busy"
    words += f"{number if there.placement == 'actors' else ''}): "
    return stage, words + " or ".join(_faster_making(measured, there, makers))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _busy_share(busy_s: float, processes: int, measured: StreamMeasured) -> float:
    """Part of the time that each of them was busy; what was made before the clock began counts too."""
    return min(1.0, busy_s / (processes * measured.elapsed_s)) if processes else 0.0


def _wanted(busy_s: float, measured: StreamMeasured) -> int:
    """Processes that do this work as fast as the step alone could use it up."""
    stepping_s = max(measured.elapsed_s - measured.waited_s, 0.01 * measured.elapsed_s)
    return math.ceil(busy_s / stepping_s - 1e-9)


def _making_stage(measured: StreamMeasured) -> Stage:
    decoding = measured.decode_s / (measured.decode_s + measured.augment_s)
    if decoding >= MOSTLY:
        return "decoding"
    return "augmentation" if decoding <= 1 - MOSTLY else "decoding and augmentation"


def _who(measured: StreamMeasured, there: StreamResources) -> str:
    if there.placement == "actors":
        return "actors"
    threads = "1 thread" if there.threads_each == 1 else f"{there.threads_each} threads"
    return f"{threads} in each of {measured.workers} workers"


def _faster_making(measured: StreamMeasured, there: StreamResources, makers: int) -> list[str]:
    wanted = max(makers + 1, _wanted(measured.decode_s + measured.augment_s, measured))
    if there.placement == "trainer":
        threads = math.ceil(wanted / measured.workers)
        ways = [
            f"give each worker {threads + 1} CPUs (train.workers.cpus_each), for {threads} threads of views",
            "leave views to actors on other CPUs (augment.placement: actors)",
        ]
    else:
        more = wanted - makers
        gpus = f" and {more * there.gpus_each:g} GPUs" if there.gpus_each else ""
        ways = [f"add {more * there.cpus_each:g} CPUs{gpus} for {more} more actors"]
        if wanted > there.actors_max:
            ways[0] += f" (augment.actors.max {wanted})"
    shorter_side = round(there.image_size * SHORTER_SIDE_PER_VIEW)
    decoding_counts = _making_stage(measured) != "augmentation"
    if decoding_counts and measured.shorter_side_px >= SHRINKING_WORTHWHILE * shorter_side:
        ways.append(f"ingest at {shorter_side} px (syn2co ingest --shorter-side {shorter_side})")
    return ways


def _faster_reading(measured: StreamMeasured, there: StreamResources) -> str:
    more = max(1, _wanted(measured.read_s, measured) - there.readers_max)
    return (
        f"add {more * there.reader_cpus_each:g} CPUs for {more} more read tasks (or lower "
        "data.reader_cpus_each), or keep what was read near (object_store.cache)"
    )


def _fewer_bytes(there: StreamResources) -> str:
    if there.placement == "actors":
        return "augment.placement: trainer, which moves encoded images instead of views"
    return "a larger data.window_images"
