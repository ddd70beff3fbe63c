"""The plan as a Ray Data stream: windows -> read tasks -> view actors -> one ordered stream a rank.

How the order survives Ray Data (its iterators have no position, and it may cut and merge blocks):

- One row of the data set is a *block*: everything one rank needs for a few whole steps. Ray may cut
  blocks between rows, never inside one, so no step is ever torn or mixed with another.
- Blocks leave every stage in plan order (`preserve_order`), chunk after chunk and rank after rank in
  it, and the splitter deals them out in turn: rank r gets rows r, W + r, 2 W + r ...
- Every block carries its step and rank; the consumer compares them with what it expects and fails
  rather than train on something else.

One execution spans all remaining epochs, because actor pools are rebuilt at every execution. Resume is
a matter of starting at a step: windows before it are never read.
"""

from __future__ import annotations

import functools
import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from ..spec.base import Pool
from ..spec.errors import DataError, Syn2coError, error_from_json, error_to_json
from ..spec.source import ObjectStoreSpec
from .index import SourceIndex, read_fragments
from .live import LiveReader
from .plan import Plan, WindowPlan
from .scheduling import DoneBlocksForgotten, IdlePause

BLOCK_BYTES = 8 * 1024 * 1024
"""Views in one block, about. Every block costs Ray tens of milliseconds of CPU whatever its size, so
small images travel several steps at a time."""

READ_THREADS = 8

WINDOWS_UP_FRONT_MAX = 4096

BLOCK_SCHEMA = pa.schema(
    [
        ("epoch", pa.int64()),
        ("first_step", pa.int64()),
        ("steps", pa.int64()),
        ("rank", pa.int64()),
        ("key", pa.list_(pa.string())),
        ("image", pa.list_(pa.binary())),
        ("source", pa.list_(pa.int64())),
        ("label", pa.list_(pa.string())),
        ("repeat", pa.list_(pa.int64())),
        ("read_s", pa.float64()),
        ("error", pa.string()),
    ]
)
"""What leaves a read task: one row a block, lists of steps * images_per_rank records in plan order.

`read_s` is the block's part of the seconds that reading its window took.
`error` is null, or says why there are none: Ray Data keeps only a traceback of what its workers raise, so
our own errors travel as data and are raised where the blocks are consumed."""


@dataclass(frozen=True)
class Stream:
    """Everything needed to read a run's records in plan order, on any machine of the cluster."""

    plan: Plan
    indexes: tuple[SourceIndex, ...]
    object_store: ObjectStoreSpec
    view_bytes_per_image: int
    reader_cpus_each: float
    live: LiveReader | None = None

    def images_per_rank(self, world_size: int) -> int:
        return self.plan.images_per_step_global // world_size

    def steps_per_block(self, world_size: int) -> int:
        bytes_per_step = self.images_per_rank(world_size) * self.view_bytes_per_image
        return int(np.clip(BLOCK_BYTES // bytes_per_step, 1, self.plan.steps_per_window))


def read_window(stream: Stream, number: int) -> tuple[WindowPlan, pa.Table]:
    """Read one window; the table has its records in plan order (step after step, slot after slot).

    Images are large_binary: those of a window may be more than the 2 GiB that 32-bit offsets reach.
    """
    window = stream.plan.window(number)
    # In one piece, which `take` would make beside the pieces; they go back to the system before it copies.
    records = _records_read(stream, window).combine_chunks()
    pa.default_memory_pool().release_unused()
    table = records.take(pa.array(window.take))
    return window, table.append_column("repeat", pa.array(window.repeat.astype(np.int64)))


def _records_read(stream: Stream, window: WindowPlan) -> pa.Table:
    """All reads of a window, one after the other."""
    tables: list[pa.Table] = []
    for source, index in enumerate(stream.indexes):
        requests = [(read.fragment, read.rows) for read in window.reads if read.source == source]
        if not requests:
            continue
        read = pa.concat_tables(read_fragments(index, requests, stream.object_store, READ_THREADS))
        numbers = pa.array(np.full(read.num_rows, source, dtype=np.int64))
        tables.append(read.select(["key", "image", "label"]).append_column("source", numbers))
    if stream.live is not None:
        drawn = [read for read in window.reads if read.source == stream.plan.live_source]
        if drawn:
            read = stream.live.read(drawn)
            numbers = pa.array(np.full(read.num_rows, stream.plan.live_source, dtype=np.int64))
            tables.append(read.append_column("source", numbers))
    table = pa.concat_tables(tables)
    place = table.schema.get_field_index("image")
    return table.set_column(place, "image", table["image"].cast(pa.large_binary()))


def blocks_of_window(stream: Stream, number: int, world_size: int, first_step: int) -> Iterator[pa.Table]:
    """One-row tables (BLOCK_SCHEMA) of a window, from `first_step` on: chunk by chunk, rank by rank."""
    started = time.perf_counter()
    window, table = read_window(stream, number)
    read_s = time.perf_counter() - started
    per_step, per_rank = stream.plan.images_per_step_global, stream.images_per_rank(world_size)
    steps_per_block = stream.steps_per_block(world_size)
    columns = {name: table[name].combine_chunks() for name in ("key", "image", "source", "label", "repeat")}
    skipped = max(0, first_step - window.first_step)
    for begin in range(skipped, window.steps, steps_per_block):
        steps = np.arange(begin, min(begin + steps_per_block, window.steps))
        for rank in range(world_size):
            rows = (steps[:, None] * per_step + rank * per_rank + np.arange(per_rank)).ravel()
            chosen = {
                name: column.take(pa.array(rows)).cast(BLOCK_SCHEMA.field(name).type.value_type)
                for name, column in columns.items()
            }
            yield pa.table(
                {
                    "epoch": [window.epoch],
                    "first_step": [window.first_step + begin],
                    "steps": [len(steps)],
                    "rank": [rank],
                    **{name: pa.ListArray.from_arrays([0, len(rows)], part) for name, part in chosen.items()},
                    "read_s": [read_s * len(steps) / (window.steps - skipped) / world_size],
                    "error": [None],
                },
                schema=BLOCK_SCHEMA,
            )


def remaining_windows(plan: Plan, first_step: int) -> range:
    """Numbers of the windows that still hold steps at or after `first_step`."""
    if first_step >= plan.total_steps:
        return range(0)
    return range(plan.window_of_step(first_step), plan.total_windows)


def window_dataset(plan: Plan, first_step: int) -> ray.data.Dataset:
    """The windows that remain, a block each, so that each is a read task of its own.

    Ray makes blocks of items up front. A long run has too many windows for that: where they start and stop
    goes in, and a stage of its own counts them off while the run goes on.
    """
    windows = remaining_windows(plan, first_step)
    if len(windows) <= WINDOWS_UP_FRONT_MAX:
        items = [{"window": number} for number in windows]
        dataset = ray.data.from_items(items, override_num_blocks=max(1, len(items)))
        configure_context(dataset.context)
        return dataset
    dataset = ray.data.from_items([{"start": windows.start, "stop": windows.stop}], override_num_blocks=1)
    configure_context(dataset.context)
    return dataset.map_batches(_each_window, batch_size=None, batch_format="pyarrow", num_cpus=0.001)


def configure_context(context: ray.data.DataContext) -> None:
    """Settings that the order law rests on, and quiet progress (the run has its own)."""
    context.execution_options.preserve_order = True
    # Every row becomes a block of its own: Ray cuts down to this size but never below one row.
    context.target_max_block_size = 1
    context.target_min_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.custom_execution_callback_classes = [DoneBlocksForgotten, IdlePause]


@dataclass(frozen=True)
class ViewStage:
    """The stage of the stream that makes views.

    Attributes:
        actor: class whose instances turn a block of records into a block of views.
        arguments: its constructor's keyword arguments.
        pool: how many such actors, and what each asks for.
    """

    actor: type
    arguments: dict[str, Any]
    pool: Pool


def rank_streams(
    windows: ray.data.Dataset,
    stream_ref: Any,
    *,
    first_step: int,
    world_size: int,
    reader_cpus_each: float,
    views: ViewStage | None,
) -> list[ray.data.DataIterator]:
    """Read, make views, and deal the blocks out to the ranks.

    Args:
        windows: from `window_dataset`.
        stream_ref: object reference of the `Stream`; each process fetches it once.
        first_step: global step to start at.
        world_size: number of ranks; must divide the global batch.
        reader_cpus_each: logical CPUs of a read task.
        views: who makes views; None leaves the blocks as read (BLOCK_SCHEMA), for ranks that make their own.

    Returns:
        One iterator a rank, each a row a block.
    """
    # Equal resources would let Ray fuse reading into the actors, and windows would be read in turn.
    # A little less, never more: the job was planned to fit the cluster to the last CPU.
    equal = views is not None and reader_cpus_each == views.pool.cpus_each
    reader_cpus = reader_cpus_each * (0.999 if equal else 1.0)
    blocks = windows.map_batches(
        _read_blocks,
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"boxed": [stream_ref], "world_size": world_size, "first_step": first_step},
        num_cpus=reader_cpus,
    )
    if views is not None:
        blocks = blocks.map_batches(
            views.actor,
            fn_constructor_kwargs=views.arguments,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=views.pool.min, max_size=views.pool.max),
            num_cpus=views.pool.cpus_each,
            num_gpus=views.pool.gpus_each,
        )
    configure_context(blocks.context)
    return blocks.streaming_split(world_size, equal=True)


def _each_window(span: pa.Table) -> Iterator[pa.Table]:
    """One row after the other, so that each becomes a block and so a read task of its own."""
    for number in range(span["start"][0].as_py(), span["stop"][0].as_py()):
        yield pa.table({"window": [number]})


@functools.lru_cache(maxsize=2)
def _fetched(reference: Any) -> Stream:
    return ray.get(reference)


def fetch_stream(boxed: list[Any]) -> Stream:
    """The stream in a box, or behind the reference in it (fetched once a process).

    Ray would resolve a bare reference at every call; without Ray the box holds the stream itself.
    """
    return boxed[0] if isinstance(boxed[0], Stream) else _fetched(boxed[0])


def _read_blocks(window: pa.Table, boxed: list[Any], world_size: int, first_step: int) -> Iterator[pa.Table]:
    stream = fetch_stream(boxed)
    for number in window["window"].to_pylist():
        try:
            yield from blocks_of_window(stream, number, world_size, first_step)
        except Syn2coError as error:
            for rank in range(world_size):
                row = {"rank": rank, "error": error_to_json(error)}
                yield pa.Table.from_pylist([row], schema=BLOCK_SCHEMA)


def views_columns(groups: int) -> list[str]:
    """Names of the columns that hold the views of a block, one for each size of views."""
    return [f"views_{group}" for group in range(groups)]


@dataclass(frozen=True)
class BlockWork:
    """What it took to make a block.

    Attributes:
        maker: who made its views; each actor or training worker has a name of its own.
        images: records of the block.
        read_s, decode_s, augment_s: wall seconds of one reader, and of one maker of views.
        shorter_side_px: mean of the shorter sides of its decoded images.
    """

    maker: str
    images: int
    read_s: float
    decode_s: float
    augment_s: float
    shorter_side_px: float


@dataclass(frozen=True)
class StepRecords:
    """What one rank trains on in one step.

    `views` is uint8 (images_per_rank, views, 3, H, W) for each size of views, `keys` the records' keys in
    row order, `sources` their source numbers, `labels` their classes or None, `quarantined` the records of
    this step that were replaced (see `data.quarantine`). The first step of a block has the block's `work`.
    """

    epoch: int
    step: int
    views: list[np.ndarray]
    keys: list[str]
    sources: np.ndarray
    labels: list[str | None]
    quarantined: list[dict[str, Any]]
    work: BlockWork | None = None


def keys_digest(keys: list[str]) -> int:
    """A number that the keys of a step determine, in any order: parts of a step add up to the whole.

    Two sets of keys have the same one by chance about once in 4e9; up to 2e6 keys it is exact in a double.
    """
    return sum(zlib.crc32(key.encode()) for key in keys)


def steps_of_blocks(blocks: Iterator[dict[str, Any]], rank: int, first_step: int) -> Iterator[StepRecords]:
    """Cut a rank's blocks into steps and check that each is the one the plan has next.

    Raises:
        DataError: blocks arrived out of plan order (a defect or a changed Ray; never train on it).
        Syn2coError: what a read task or a view actor met, such as a source without one readable image.
    """
    expected = first_step
    for block in blocks:
        if block["error"][0]:
            raise error_from_json(block["error"][0])
        step, count = int(block["first_step"][0]), int(block["steps"][0])
        if step != expected or int(block["rank"][0]) != rank:
            raise DataError(
                "data stream",
                f"rank {rank} received step {step} of rank {int(block['rank'][0])}, not step {expected}",
                "blocks in plan order",
                "resume the run; report this with your Ray version",
            )
        notes = json.loads(block["notes"][0])
        views = [block[name][0] for name in views_columns(notes["view_groups"])]
        work = BlockWork(**notes["work"]) if "work" in notes else None
        per_step = len(notes["keys"]) // count
        for offset in range(count):
            rows = slice(offset * per_step, (offset + 1) * per_step)
            yield StepRecords(
                epoch=int(block["epoch"][0]),
                step=step + offset,
                views=[group[rows] for group in views],
                keys=notes["keys"][rows],
                sources=np.asarray(notes["sources"][rows]),
                labels=notes["labels"][rows],
                quarantined=[q for q in notes["quarantined"] if rows.start <= q["row"] < rows.stop],
                work=work if offset == 0 else None,
            )
        expected += count
