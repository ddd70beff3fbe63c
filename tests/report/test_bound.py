"""The verdict on what bounds a run, from numbers one can check by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from syn2co_ray.report.bound import StreamMeasured, StreamResources, bound_of

# 100 s, 41 of them without images; two actors at work for 98 s each, most of it decoding.
MEASURED = StreamMeasured(
    steps=500, workers=4, elapsed_s=100, waited_s=41, fetch_s=40, read_s=30, decode_s=140, augment_s=56, makers=2, shorter_side_px=375
)  # fmt: skip
THERE = StreamResources(
    placement="actors", actors_max=2, cpus_each=1, gpus_each=0, threads_each=1, readers_max=2, reader_cpus_each=0.5,
    image_size=224,
)  # fmt: skip


def text_of(measured: StreamMeasured = MEASURED, there: StreamResources = THERE, **changes: float) -> str:
    bound = bound_of(replace(measured, **changes), there)
    assert bound is not None
    return bound.text


def test_the_example_in_words():
    bound = bound_of(MEASURED, THERE)
    # 196 busy seconds in the 59 s that the steps alone take: 3.3 actors.
    assert (bound.stage, bound.data_wait_share) == ("decoding", 0.41)
    assert bound.text == (
        "data wait 41 %: bound by decoding (actors 98 % busy, 2 of 2): "
        "add 2 CPUs for 2 more actors (augment.actors.max 4)"
    )
    assert "or ingest at 256 px (syn2co ingest --shorter-side 256)" in text_of(shorter_side_px=500)


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({"waited_s": 4.9}, "model"),
        ({"waited_s": 5.0}, "decoding"),
        ({"fetch_s": 4.9}, "other workers"),
        ({"decode_s": 98, "augment_s": 98}, "decoding and augmentation"),
        ({"decode_s": 40, "augment_s": 156}, "augmentation"),
        ({"read_s": 199}, "reading"),
        ({"decode_s": 50, "augment_s": 20}, "transfer"),
        ({"decode_s": 0, "augment_s": 0, "read_s": 0}, "transfer"),
        ({"makers": 4}, "transfer"),  # busy for 49 % of the time each
    ],
)
def test_the_busiest_stage_is_named_if_it_is_nearly_always_busy(changes, stage):
    assert bound_of(replace(MEASURED, **changes), THERE).stage == stage


def test_each_stage_says_what_would_lift_it():
    assert text_of(waited_s=1) == "data wait 1 %: bound by the model"
    assert "workers that wait for one another (3 % for images)" in text_of(fetch_s=3)
    reading = text_of(read_s=199)
    assert (
        "bound by reading (read tasks 100 % busy, 2 fit at once): add 1 CPUs for 2 more read tasks" in reading
    )
    assert "object_store.cache" in reading
    transfer = text_of(decode_s=50, augment_s=20)
    assert "readers were 15 % and makers of views 35 % busy" in transfer
    assert "augment.placement: trainer" in transfer
    on_gpus = replace(THERE, gpus_each=0.25, actors_max=8)
    assert "add 2 CPUs and 0.5 GPUs for 2 more actors" in text_of(there=on_gpus)
    assert "actors.max" not in text_of(there=on_gpus)  # they may come by themselves
    assert "ingest" not in text_of(decode_s=40, augment_s=156, shorter_side_px=4000)


def test_workers_that_make_their_own_views_are_told_to_take_more_cpus():
    own = replace(THERE, placement="trainer", threads_each=3)
    text = text_of(there=own, makers=4, decode_s=800, augment_s=370)
    assert "3 threads in each of 4 workers 98 % busy" in text
    # 1170 s of work in 59 s: 20 threads, 5 in each worker.
    assert "give each worker 6 CPUs (train.workers.cpus_each), for 5 threads of views" in text
    assert "augment.placement: actors" in text


def test_nothing_is_said_from_too_few_steps_and_a_stream_without_steps_is_no_division_by_zero():
    assert bound_of(replace(MEASURED, steps=4), THERE) is None
    assert bound_of(replace(MEASURED, steps=0, elapsed_s=0, waited_s=0), THERE) is None
    assert "add" in text_of(waited_s=100)
    assert text_of(makers=0)
