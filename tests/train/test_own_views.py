"""`augment.placement: trainer`: workers make the views that actors would have made."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from syn2co_ray.augment.actor import ViewActor, actor_arguments
from syn2co_ray.data.stream import (
    StepRecords,
    blocks_of_window,
    rank_streams,
    steps_of_blocks,
    window_dataset,
)
from syn2co_ray.spec.errors import DataError
from syn2co_ray.submit.prepare import PreparedRun
from syn2co_ray.train.feed import view_stage
from syn2co_ray.train.own_views import OwnViews, view_threads

from .local_run import prepared
from .test_loop import spoil

TRAINER = ("augment.placement=trainer", "train.workers={min: 1, max: 1, cpus_each: 4}", "name=trainer")
SPOILT = ("data.prepare=[]", "name=actors")  # names of their own, as an index is kept with a run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny job's folder; every 150th image of its digits is cut short."""
    folder = tmp_path_factory.mktemp("own_views")
    prepared(folder)
    spoil(folder, 1 / 150)
    return folder


def encoded_blocks(run: PreparedRun, windows: int = 3) -> Iterator[pa.Table]:
    for number in range(windows):
        yield from blocks_of_window(run.stream, number, 1, 0)


def steps_by_actor(run: PreparedRun) -> list[StepRecords]:
    actor = ViewActor(**actor_arguments(run.job, [run.stream]))
    return list(steps_of_blocks(map(actor, encoded_blocks(run)), 0, 0))


@pytest.mark.parametrize("backend", ["opencv", "torch", "auto"])
def test_workers_train_on_what_actors_would_have_made_bit_for_bit(digits: Path, backend: str) -> None:
    chosen = (*SPOILT, f"augment.backend={backend}")
    expected = steps_by_actor(prepared(digits, *chosen))
    run = prepared(digits, *chosen, *TRAINER)
    own = OwnViews(run.job, [run.stream], "cpu")
    found = list(steps_of_blocks(own(encoded_blocks(run)), 0, 0))
    assert own.threads == 3
    assert len(found) == len(expected) > 8
    assert any(step.quarantined for step in found)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.step, ours.epoch, ours.keys, ours.labels) == (
            theirs.step,
            theirs.epoch,
            theirs.keys,
            theirs.labels,
        )
        assert ours.quarantined == theirs.quarantined
        for views, same in zip(ours.views, theirs.views, strict=True):
            np.testing.assert_array_equal(views, same)


@pytest.mark.ray
def test_ray_delivers_encoded_blocks_in_plan_order_and_they_become_the_same_views(
    ray_cluster: Any, digits: Path
) -> None:
    import ray

    expected = steps_by_actor(prepared(digits, *SPOILT))
    run = prepared(digits, *SPOILT, *TRAINER)
    (stream,) = rank_streams(
        window_dataset(run.plan, 0), ray.put(run.stream), first_step=0, world_size=1, reader_cpus_each=0.5, views=None
    )  # fmt: skip
    encoded = stream.iter_batches(batch_size=1, batch_format="pyarrow")
    found = steps_of_blocks(OwnViews(run.job, [run.stream], "cpu")(iter(encoded)), 0, 0)
    for ours, theirs in zip(itertools.islice(found, len(expected)), expected, strict=True):
        assert (ours.step, ours.keys) == (theirs.step, theirs.keys)
        np.testing.assert_array_equal(ours.views[0], theirs.views[0])
        assert theirs.work is None or ours.work.read_s > 0


def test_no_actors_are_started(digits: Path) -> None:
    run = prepared(digits, *SPOILT, *TRAINER)
    assert view_stage(run.job, []) is None
    assert view_stage(prepared(digits, *SPOILT).job, []).actor is ViewActor


def test_a_source_without_a_readable_image_is_the_same_error(tmp_path: Path) -> None:
    prepared(tmp_path)
    spoil(tmp_path, 1.0)
    run = prepared(tmp_path, "data.prepare=[]", "data.eval=null", *TRAINER)
    own = OwnViews(run.job, [run.stream], "cpu")
    with pytest.raises(DataError, match="none of 64 images drawn from it can be decoded"):
        list(steps_of_blocks(own(encoded_blocks(run)), 0, 0))


@pytest.mark.parametrize(("cpus_each", "threads"), [(0.5, 1), (1, 1), (2, 1), (2.5, 1), (4, 3)])
def test_the_step_keeps_a_cpu(cpus_each: float, threads: int) -> None:
    assert view_threads(cpus_each) == threads


@pytest.fixture
def slow_views(digits: Path, monkeypatch: pytest.MonkeyPatch) -> OwnViews:
    """Three threads whose every second block is slow, and the views a number."""
    run = prepared(digits, *SPOILT, *TRAINER)
    own = OwnViews(run.job, [run.stream], "cpu")

    def make(number: Any) -> dict[str, Any]:
        time.sleep(0.02 * (number % 2))
        return {"number": number}

    monkeypatch.setattr(own, "_make", make)
    return own


def test_blocks_keep_their_order_and_few_are_made_ahead(slow_views: OwnViews) -> None:
    taken = []

    def blocks() -> Iterator[Any]:
        for number in range(40):
            taken.append(number)
            yield number

    for used, views in enumerate(slow_views(blocks())):
        assert views["number"] == used
        time.sleep(0.002)
        assert len(taken) <= used + 1 + slow_views.threads + 2
    assert len(taken) == 40


def test_what_goes_wrong_is_raised_in_its_place_and_leaving_ends_the_threads(slow_views: OwnViews) -> None:
    def blocks() -> Iterator[Any]:
        yield from (0, 1)
        raise DataError("data stream", "broken")

    views = slow_views(blocks())
    assert [next(views)["number"], next(views)["number"]] == [0, 1]
    with pytest.raises(DataError, match="broken"):
        next(views)
    left = slow_views(iter(range(1000)))
    assert next(left)["number"] == 0
    left.close()
    for thread in threading.enumerate():
        if thread.name.startswith(("views", "blocks")):
            thread.join(timeout=5)
            assert not thread.is_alive()


@pytest.mark.gpu
def test_views_made_on_a_gpu_beside_a_step_equal_those_of_a_cpu(digits: Path) -> None:
    chosen = (*SPOILT, "augment.backend=torch")
    expected = steps_by_actor(prepared(digits, *chosen))
    run = prepared(digits, *chosen, *TRAINER)
    found = steps_of_blocks(OwnViews(run.job, [run.stream], "cuda:0")(encoded_blocks(run)), 0, 0)
    for ours, theirs in zip(found, expected, strict=True):
        for views, same in zip(ours.views, theirs.views, strict=True):
            np.testing.assert_array_equal(views, same)
