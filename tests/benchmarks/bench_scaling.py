"""Scaling on paper: plan, index and blocks at sizes that no laptop trains, measured without Ray and without images.

    python tests/benchmarks/bench_scaling.py [--quick]

The package's own code runs at full size: `make_index`, `Plan`, `blocks_of_window`, `window_dataset` and what the
driver puts into Ray's store. What stands in for the rest: files and fragments are invented, where blocks are cut
reading returns equal bytes, and `from_items` only keeps what it is given. Tables:

    driver   by records: the index made from the lists that listing leaves, saved, loaded; the stream as it goes
             into the store; the list of windows. Two sources, half each. A fragment is 256 records and a file 20
             of them (Parquet), or both are one image (a folder).
    window   by records: what a read task pays before it reads: for the first window of an epoch, which permutes
             all fragments, and for one after it; what its process keeps after ten epochs.
    blocks   by workers, the global batch fixed, growing, and fixed with windows of three steps: blocks of a step
             (one row each; Ray moves each twice, to a view actor and to a rank), their bytes, and what a read
             task pays to cut its window.
    footers  by files: real Parquet indexes (one file of 20 row groups under many names, on local disk).

Not measured: listing and reading a bucket, and Ray itself. "blocks/s" is what Ray has to bear when a step takes
0.5 s; "s at 10 ms" the shortest step that a single process allows which spends 10 ms on a block, an assumption.

Times are CPU seconds of the process, since the machine has other work. Memory is in MB (1e6 bytes): by how much
the resident peak of a process of its own rises (Linux), "kept" what stays.

Found first, at 1e9 records in 3.9 M row groups: a window costs a read task 0.4 ms of planning, after 220 ms for
the first of an epoch. Memory grew where it need not. Predicted for a change of each before it was made, and found:
  - a read task's process kept five passes' orders (157 MB): one a source, as int32, 47 MB. Found 47. Shuffled as
    int32 it took half as long again (NumPy), so it is shuffled as int64 and made int32 then;
  - the orders that the driver had drawn travelled with the stream (134 MB): left behind, 72. Found 72;
  - a dict for each window of the run (569 MB for ten epochs): where they start and stop, nothing. Found 0;
  - a Parquet index held all footers while it was made (3.2 kB a row group, so 12 GB): their rows and columns,
    0.1 kB. Found 0.3, of which each file's schema is the most, so 1.1 GB;
  - a read task peaked at 3.1 times its window's bytes, and failed over 2 GiB (Arrow's 32-bit offsets): 2.1 times,
    without that limit. Found 3.1 at first, since Arrow's pool keeps what is freed; 2.1 once told not to;
  - every process unpacked a list of file names (19 MB; 1,043 MB for a folder of 1e7 images): two arrays that
    they share, under 1 MB. Found 0.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from syn2co_ray.data.index import build_index
from syn2co_ray.data.plan import Plan
from syn2co_ray.data.record import record_table
from syn2co_ray.data.source_index import SourceIndex, load_index, make_index, save_index
from syn2co_ray.data.stream import Stream, blocks_of_window, window_dataset
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec

EPOCHS = 10
IMAGES_PER_STEP_GLOBAL = 4096
WINDOW_IMAGES = 2048  # the default of `data.window_images`
ROWS_PER_FRAGMENT, FRAGMENTS_PER_FILE = 256, 20
IMAGE_BYTES = 20_000  # a JPEG of 256 pixels
VIEW_BYTES_PER_IMAGE = 2 * 3 * 224 * 224
STEP_S = 0.5
BLOCK_S = 0.010
STORE = ObjectStoreSpec()
SOURCE = SourceSpec(uri="/nowhere", format="parquet")

Row = dict[str, str]
"""Column -> cell."""


@dataclass
class Cost:
    """CPU seconds of a piece of work, and MB by which its process grew: at its peak, and after it."""

    cpu_s: float = 0.0
    peak_mb: float = 0.0
    kept_mb: float = 0.0


@contextmanager
def cost() -> Iterator[Cost]:
    """What the body of the `with` costs."""
    found = Cost()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    before = _resident_mb("VmRSS")
    started = time.process_time()
    yield found
    found.cpu_s = time.process_time() - started
    found.peak_mb = _resident_mb("VmHWM") - before
    found.kept_mb = _resident_mb("VmRSS") - before


def _resident_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def apart(work: Callable[..., Row], *arguments: Any) -> Row:
    """`work` in a process of its own, so that what came before it weighs nothing."""
    # Every larger block gets pages of its own and gives them back, so that the peak is what was in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(work, arguments)


def listed_index(records: int, rows_each: int) -> SourceIndex:
    """An index made as readers make it: from lists of (path, bytes) and (file, rows, first row)."""
    per_file = FRAGMENTS_PER_FILE if rows_each > 1 else 1
    count = records // rows_each
    files = [
        (f"part-{number // 1000:06d}/train-{number:09d}.parquet", per_file * rows_each * IMAGE_BYTES + number)
        for number in range(-(-count // per_file))
    ]
    fragments = [(f // per_file, rows_each, f % per_file * rows_each) for f in range(count)]
    return make_index(SOURCE, files, fragments)


def plain_index(records: int, rows_each: int) -> SourceIndex:
    """An index of that many records, from arrays alone; its files share a name."""
    count = records // rows_each
    files = -(-count // FRAGMENTS_PER_FILE)
    return SourceIndex(
        source=SOURCE,
        files=["train.parquet"] * files,
        file_bytes=np.ones(files, dtype=np.int64),
        fragment_file=np.arange(count, dtype=np.int32) // FRAGMENTS_PER_FILE,
        fragment_rows=np.full(count, rows_each, dtype=np.int32),
        fragment_first_row=np.arange(count, dtype=np.int64) % FRAGMENTS_PER_FILE * rows_each,
    )


def stream_of(
    indexes: Sequence[SourceIndex],
    images_per_step_global: int = IMAGES_PER_STEP_GLOBAL,
    window_images: int = WINDOW_IMAGES,
) -> Stream:
    """Two sources at equal shares; an epoch is as long as all records."""
    rows = tuple(index.fragment_rows for index in indexes)
    plan = Plan(0, EPOCHS, images_per_step_global, window_images, rows, (0.5, 0.5))
    return Stream(plan, tuple(indexes), STORE, VIEW_BYTES_PER_IMAGE, reader_cpus_each=1.0)


def put(stream: Stream, folder: Path) -> float:
    """Write the stream to files as `ray.put` does to shared memory, a pickle and the arrays beside it; their MB."""
    arrays: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(stream, protocol=5, buffer_callback=arrays.append)
    (folder / "pickled").write_bytes(pickled)
    for number, array in enumerate(arrays):
        np.save(folder / f"{number:03d}.npy", np.frombuffer(array.raw(), dtype=np.uint8))
    return (len(pickled) + sum(array.raw().nbytes for array in arrays)) / 1e6


def process_row(folder: Path) -> Row:
    """What each process pays that reads or makes views; the arrays are shared."""
    pickled = (folder / "pickled").read_bytes()
    arrays = [np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))]
    with cost() as fetching:
        stream = pickle.loads(pickled, buffers=arrays)
    assert isinstance(stream, Stream)
    return {"fetch s": f"{fetching.cpu_s:.2f}", "a process MB": f"{fetching.kept_mb:,.1f}"}


def size(records: int, rows_each: int) -> Row:
    return {"records": f"{records:.0e}", "layout": "Parquet" if rows_each > 1 else "folder"}


def driver_row(records: int, rows_each: int, folder: Path) -> Row:
    with cost() as making:
        indexes = [listed_index(records // 2, rows_each) for _ in range(2)]
    with cost() as saving:
        saved = [save_index(index) for index in indexes]
    with cost() as loading:
        indexes = [load_index(data) for data in saved]
    stream = stream_of(indexes)
    stream.plan.window(0)  # the report's pictures ask for it while the stream is on its way to the store
    put_mb = put(stream, folder)
    with cost() as windows, mock.patch.object(ray.data, "from_items") as from_items:
        window_dataset(stream.plan, first_step=0)
    assert from_items.called
    return {
        **size(records, rows_each),
        "fragments": f"{sum(index.num_fragments for index in indexes):,}",
        "make s": f"{making.cpu_s:.2f}",
        "peak MB": f"{making.peak_mb:,.0f}",
        "kept MB": f"{making.kept_mb:,.0f}",
        "save s": f"{saving.cpu_s:.2f}",
        "file MB": f"{sum(map(len, saved)) / 1e6:,.1f}",
        "load s": f"{loading.cpu_s:.2f}",
        "in store MB": f"{put_mb:,.1f}",
        "windows": f"{stream.plan.total_windows:,}",
        "list s": f"{windows.cpu_s:.2f}",
        "list MB": f"{windows.peak_mb:,.1f}",
    }


def stream_row(records: int, rows_each: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        return {
            **apart(driver_row, records, rows_each, Path(folder)),
            **apart(process_row, Path(folder)),
        }


def window_row(records: int, rows_each: int) -> Row:
    plan = stream_of([plain_index(records // 2, rows_each) for _ in range(2)]).plan
    later = [epoch * plan.windows_per_epoch for epoch in range(1, EPOCHS)]
    with cost() as ten_epochs:
        with cost() as first:
            window = plan.window(0)
        steady = []
        for number in range(1, min(22, plan.windows_per_epoch)):
            started = time.process_time()
            plan.window(number)
            steady.append(time.process_time() - started)
        for number in later:
            plan.window(number)
    return {
        **size(records, rows_each),
        "fragments": f"{sum(map(len, plan.fragment_rows)):,}",
        "reads": f"{len(window.reads):,}",
        "first ms": f"{first.cpu_s * 1e3:,.1f}",
        "steady ms": f"{statistics.median(steady) * 1e3:,.1f}",
        "first, peak MB": f"{first.peak_mb:,.1f}",
        "kept MB": f"{ten_epochs.kept_mb:,.1f}",
    }


def blocks_row(workers: int, images_per_step_global: int, window_images: int, records: int) -> Row:
    indexes = [plain_index(records // 2, ROWS_PER_FRAGMENT)] * 2
    stream = stream_of(indexes, images_per_step_global, window_images)
    images = [np.random.default_rng(row).bytes(IMAGE_BYTES) for row in range(ROWS_PER_FRAGMENT)]
    keys = [f"train-000000000.parquet:{row:06d}" for row in range(ROWS_PER_FRAGMENT)]
    fragment = record_table(keys, images, ["cat"] * len(keys), "real", SOURCE.uri)

    def equal_bytes(index: Any, requests: Any, *rest: Any) -> list[pa.Table]:
        return [fragment.take(pa.array(rows)) for _, rows in requests]

    stream.plan.window(0)
    count, block_mb = 0, 0.0
    with mock.patch("syn2co_ray.data.stream.read_fragments", equal_bytes), cost() as cutting:
        for block in blocks_of_window(stream, 1, workers, first_step=0):
            count += 1
            block_mb = block.nbytes / 1e6
    steps = stream.plan.steps_per_window
    per_step = count / steps
    rows_per_block = images_per_step_global * steps // count
    return {
        "workers": f"{workers}",
        "global batch": f"{images_per_step_global:,}",
        "window tasks/epoch": f"{stream.plan.windows_per_epoch:,}",
        "steps a window": f"{steps}",
        "blocks a step": f"{per_step:,.1f}",
        "block MB read": f"{block_mb:.2f}",
        "block MB of views": f"{rows_per_block * VIEW_BYTES_PER_IMAGE / 1e6:.1f}",
        "blocks/s": f"{per_step / STEP_S:,.0f}",
        "s at 10 ms": f"{per_step * BLOCK_S:.2f}",
        "cut ms": f"{cutting.cpu_s * 1e3:,.0f}",
        "cut peak MB": f"{cutting.peak_mb:,.0f}",
        "window MB": f"{images_per_step_global * steps * IMAGE_BYTES / 1e6:,.0f}",
    }


def footers_row(files: int, folder: Path) -> Row:
    rows = ROWS_PER_FRAGMENT * FRAGMENTS_PER_FILE
    columns = {"image": [b"x"] * rows, "label": ["cat"] * rows, "key": [str(row) for row in range(rows)]}
    pq.write_table(pa.table(columns), folder / "one", row_group_size=ROWS_PER_FRAGMENT)
    for name, count in (("warm", 8), ("train", files)):
        (folder / name).mkdir()
        for number in range(count):
            os.link(folder / "one", folder / name / f"{number:09d}.parquet")
    build_index(SourceSpec(uri=str(folder / "warm")), STORE)
    with cost() as building:
        index = build_index(SourceSpec(uri=str(folder / "train")), STORE)
    return {
        "files": f"{files:,}",
        "fragments": f"{index.num_fragments:,}",
        "CPU s": f"{building.cpu_s:.2f}",
        "peak MB": f"{building.peak_mb:,.0f}",
        "kB a fragment": f"{building.peak_mb * 1e3 / index.num_fragments:.2f}",
    }


def print_table(title: str, rows: Iterator[Row]) -> None:
    """A Markdown table, line by line as they are measured."""
    print(f"\n{title}\n")
    for number, row in enumerate(rows):
        if number == 0:
            print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
        print(f"| {' | '.join(row.values())} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="to 10 M records and 64 workers, in a minute")
    quick = parser.parse_args().quick
    parquet = [10**power for power in ((6, 7) if quick else (6, 7, 8, 9))]
    cases = [(records, ROWS_PER_FRAGMENT) for records in parquet]
    cases += [(records, 1) for records in ((10**5,) if quick else (10**6, 10**7))]
    workers = (1, 8, 64) if quick else (1, 8, 64, 512)
    batches = [(count, IMAGES_PER_STEP_GLOBAL, WINDOW_IMAGES) for count in workers]
    batches += [(count, 64 * count, WINDOW_IMAGES) for count in workers]
    batches.append((workers[-1], IMAGES_PER_STEP_GLOBAL, 3 * IMAGES_PER_STEP_GLOBAL))
    print_table("driver, once a run", (stream_row(*case) for case in cases))
    print_table("window, in a read task", (apart(window_row, *case) for case in cases))
    print_table("blocks", (apart(blocks_row, *batch, parquet[-1]) for batch in batches))
    with tempfile.TemporaryDirectory() as folder:
        counts = (100, 500) if quick else (2000, 20_000)
        places = [Path(folder) / str(count) for count in counts]
        for place in places:
            place.mkdir()
        print_table("footers", (apart(footers_row, *pair) for pair in zip(counts, places, strict=True)))


if __name__ == "__main__":
    main()
