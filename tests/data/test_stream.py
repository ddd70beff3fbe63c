"""Contract 1 on Ray Data: keys of every global step, for any workers and actors, and after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syn2co_ray.data import stream as stream_module
from syn2co_ray.data.index import build_index
from syn2co_ray.data.plan import Plan
from syn2co_ray.data.prepare import run_prepare
from syn2co_ray.data.stream import (
    BLOCK_SCHEMA,
    Stream,
    ViewStage,
    blocks_of_window,
    rank_streams,
    read_window,
    steps_of_blocks,
    window_dataset,
)
from syn2co_ray.spec.base import Pool
from syn2co_ray.spec.data import DigitsStep
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec

BATCH = 24
STORE = ObjectStoreSpec()


class KeysOnly:
    """Stands where the view actor stands, and is sometimes slow, so that order is not kept by luck."""

    def __call__(self, block: Any) -> dict[str, Any]:
        keys = block["key"][0].as_py()
        number = block["first_step"][0].as_py()
        np.linalg.svd(np.random.default_rng(number).normal(size=(40 + 120 * (number % 3 == 0), 160)))
        views = np.zeros((len(keys), 2, 3, 8, 8), dtype=np.uint8)
        notes = {
            "keys": keys,
            "sources": block["source"][0].as_py(),
            "labels": block["label"][0].as_py(),
            "quarantined": [],
            "view_groups": 1,
        }
        passed = {name: block[name].to_numpy() for name in ("epoch", "first_step", "steps", "rank")}
        texts = {"notes": np.array([json.dumps(notes)], dtype=object), "error": np.array([""], dtype=object)}
        return {**passed, **texts, "views_0": views[None]}


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> Stream:
    """Two sources at 5 % and 95 %: the digits' eval and train parts."""
    folder = tmp_path_factory.mktemp("digits")
    run_prepare([DigitsStep(dataset="digits", into=str(folder))], STORE, lambda text: None)
    sources = [
        SourceSpec(uri=str(folder / "eval"), share=0.05),
        SourceSpec(uri=str(folder / "train"), share=0.95),
    ]
    indexes = tuple(build_index(source, STORE) for source in sources)
    plan = Plan(
        seed=5,
        epochs=2,
        images_per_step_global=BATCH,
        window_images=96,
        fragment_rows=tuple(index.fragment_rows for index in indexes),
        shares=(0.05, 0.95),
        images_per_epoch=BATCH * 11,
    )
    return Stream(plan, indexes, STORE, view_bytes_per_image=2_000_000 // BATCH, reader_cpus_each=0.25)


def planned(stream: Stream, first_step: int = 0) -> dict[int, list[str]]:
    """Step -> keys in order, read without Ray."""
    keys: dict[int, list[str]] = {}
    for number in range(stream.plan.window_of_step(first_step), stream.plan.total_windows):
        for block in blocks_of_window(stream, number, 1, first_step):
            step, found = block["first_step"][0].as_py(), block["key"][0].as_py()
            for offset in range(block["steps"][0].as_py()):
                keys[step + offset] = found[offset * BATCH : (offset + 1) * BATCH]
    return keys


def streamed(stream: Stream, workers: int, actors: int, first_step: int = 0) -> dict[int, list[str]]:
    """Step -> keys in rank order, as Ray Data delivers them to `workers` ranks."""
    import ray

    @ray.remote(num_cpus=0)
    def consume(blocks: Any, rank: int) -> list[tuple[int, list[str]]]:
        rows = iter(blocks.iter_batches(batch_size=1, batch_format="numpy"))
        return [(records.step, records.keys) for records in steps_of_blocks(rows, rank, first_step)]

    ranks = rank_streams(
        window_dataset(stream.plan, first_step),
        ray.put(stream),
        first_step=first_step,
        world_size=workers,
        reader_cpus_each=0.25,
        views=ViewStage(KeysOnly, {}, Pool(min=actors, max=actors, cpus_each=0.25)),
    )
    found = ray.get([consume.remote(blocks, rank) for rank, blocks in enumerate(ranks)])
    for rank_steps in zip(*found, strict=True):
        assert len({step for step, _ in rank_steps}) == 1
    return {steps[0][0]: [key for _, keys in steps for key in keys] for steps in zip(*found, strict=True)}


def test_keys_without_ray_do_not_depend_on_the_number_of_workers(stream):
    whole = planned(stream)
    assert sorted(whole) == list(range(22))
    for workers in (2, 4):
        parts: dict[int, list[str]] = {step: [] for step in whole}
        for number in range(stream.plan.total_windows):
            for block in blocks_of_window(stream, number, workers, 0):
                step, steps = block["first_step"][0].as_py(), block["steps"][0].as_py()
                per_rank = np.array_split(block["key"][0].as_py(), steps)
                for offset, keys in enumerate(per_rank):
                    parts[step + offset] += list(keys)
        assert parts == whole


def test_images_of_a_window_are_not_bound_to_2_gib_and_blocks_keep_their_schema(stream):
    _, table = read_window(stream, 0)
    assert table.schema.field("image").type == pa.large_binary()
    assert {block.schema for block in blocks_of_window(stream, 0, 2, 0)} == {BLOCK_SCHEMA}


@pytest.mark.ray
@pytest.mark.parametrize(("workers", "actors"), [(1, 3), (2, 1), (4, 3)])
def test_keys_of_every_global_step_are_the_plans(ray_cluster, stream, workers, actors):
    assert streamed(stream, workers, actors) == planned(stream)


@pytest.mark.ray
@pytest.mark.parametrize("first_step", [0, 7])
def test_more_windows_than_go_in_up_front_come_in_the_same_order(
    ray_cluster, stream, first_step, monkeypatch
):
    monkeypatch.setattr(stream_module, "WINDOWS_UP_FRONT_MAX", 2)
    rest = {step: keys for step, keys in planned(stream).items() if step >= first_step}
    assert streamed(stream, 2, 2, first_step) == rest


def test_windows_of_a_long_run_go_in_as_one_row_and_come_out_one_by_one(monkeypatch):
    from_items = mock.Mock()
    monkeypatch.setattr(stream_module.ray.data, "from_items", from_items)
    plan = Plan(0, 10, 64, 64, (np.full(10_000, 256),))
    window_dataset(plan, first_step=plan.total_steps - 5000)
    (rows,) = from_items.call_args.args
    assert len(rows) == 1
    (each_window,) = from_items.return_value.map_batches.call_args.args
    windows = [table["window"].to_pylist() for table in each_window(pa.Table.from_pylist(rows))]
    assert windows == [[number] for number in range(plan.total_windows - 5000, plan.total_windows)]


@pytest.mark.ray
def test_stopped_in_mid_epoch_and_resumed_with_other_workers_sees_exactly_the_rest(ray_cluster, stream):
    whole = planned(stream)
    assert streamed(stream, 3, 2, first_step=7) == {step: keys for step, keys in whole.items() if step >= 7}


def test_share_holds_in_every_step_of_the_stream(stream):
    eval_keys = {
        key
        for path in Path(stream.indexes[0].source.uri).glob("*.parquet")
        for key in pq.read_table(path)["key"].to_pylist()
    }
    counts = [sum(key in eval_keys for key in keys) for keys in planned(stream).values()]
    assert set(counts) <= {1, 2}
    assert abs(np.mean(counts) - 0.05 * BATCH) < 0.1


def test_blocks_out_of_plan_order_are_refused_not_trained_on():
    def block(step: int, rank: int) -> dict[str, Any]:
        notes = json.dumps(
            {"keys": ["a"], "sources": [0], "labels": [None], "quarantined": [], "view_groups": 1}
        )
        return {"epoch": [0], "first_step": [step], "steps": [1], "rank": [rank],
                "views_0": np.zeros((1, 1, 2, 3, 8, 8), np.uint8), "notes": [notes], "error": [""]}  # fmt: skip

    with pytest.raises(DataError, match="rank 0 received step 3 of rank 0, not step 1"):
        list(steps_of_blocks(iter([block(0, 0), block(3, 0)]), 0, 0))
    with pytest.raises(DataError, match="received step 0 of rank 1"):
        list(steps_of_blocks(iter([block(0, 1)]), 0, 0))


def test_memory_does_not_grow_with_the_data_set(tmp_path):
    peaks = []
    for records in (1_500, 15_000):
        folder = tmp_path / str(records)
        folder.mkdir()
        images = [np.random.default_rng(i).bytes(2_000) for i in range(500)]
        table = pa.table({"key": [f"{i:05d}" for i in range(records)], "image": images * (records // 500)})
        pq.write_table(table, folder / "a.parquet", row_group_size=50)
        index = build_index(SourceSpec(uri=str(folder)), STORE)
        plan = Plan(0, 1, 32, 256, (index.fragment_rows,), (None,))
        reader = Stream(plan, (index,), STORE, view_bytes_per_image=1_000_000, reader_cpus_each=1)
        del table, images
        before, peak = pa.total_allocated_bytes(), 0
        for number in range(plan.total_windows):
            for _ in blocks_of_window(reader, number, 2, 0):
                peak = max(peak, pa.total_allocated_bytes() - before)
        peaks.append(peak)
    assert peaks[0] > 256 * 2_000
    assert peaks[1] < 1.5 * peaks[0]
