"""Seconds of the stages, added up over ranks."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from syn2co_ray.data.stream import BlockWork
from syn2co_ray.report.bound import StreamMeasured
from syn2co_ray.train.context import TrainContext
from syn2co_ray.train.stream_clock import StreamClock

from .local_run import local_loop, prepared


class TwoRanks(TrainContext):
    """As if another rank had counted the same, made by another actor, with a longer wait."""

    def gathered(self, value):
        sums, _, fetch_s = value
        return [value, (sums, {"b", "c"}, 3 * fetch_s)]


def test_work_is_added_up_over_ranks_and_time_is_not():
    clock = StreamClock()
    context = TwoRanks(0, 2, torch.device("cpu"), records=lambda step: iter(()))
    assert StreamClock().over_all(context) is None
    clock.count(BlockWork("a", 30, 1.0, 2.0, 3.0, 100.0), 0.5, 0.2, 0.1)
    clock.count(None, 0.5, 0.0, 0.0)  # the second step of that block
    clock.count(BlockWork("b", 10, 1.0, 2.0, 3.0, 200.0), 1.0, 0.4, 0.2)
    measured = StreamMeasured(**clock.over_all(context))
    assert measured == StreamMeasured(
        steps=3, workers=2, elapsed_s=2.0, waited_s=pytest.approx(0.6), fetch_s=pytest.approx(0.9), read_s=4.0,
        decode_s=8.0, augment_s=12.0, makers=3, shorter_side_px=125.0,
    )  # fmt: skip


def test_a_loop_tells_what_its_stream_took(tmp_path):
    told = (
        local_loop(prepared(tmp_path, "train.epochs=2", "train.optimizer.warmup_epochs=1"))
        .run_to_end()
        .stream
    )
    assert set(told) == {field.name for field in fields(StreamMeasured)}
    assert (told["steps"], told["workers"], told["makers"], told["shorter_side_px"]) == (9, 1, 1, 8.0)
    assert 0 < told["fetch_s"] <= told["waited_s"] < told["elapsed_s"]
    assert min(told["read_s"], told["decode_s"], told["augment_s"]) > 0
