"""From stored photos to the trainer: this package's stream beside the loaders that people write.

    python tests/benchmarks/bench_data_path.py [--data FOLDER] [--rounds N] [--memory] [--idle]

Photos: Caltech-101's 2,996 training photos (FOLDER/caltech101, JPEG, median 300 x 260), and CIFAR-10's 50,000
(FOLDER/cifar10_jpeg); views: two of 224 pixels (BYOL's recipe), two of 32 for CIFAR. All in one run, in turns:

    decode       (a) our JPEG decoder alone, one thread: the limit of anything that decodes
    actors       (b) our stream: read tasks, view actors, blocks through Ray's object store, ordered
    trainer      (b) our stream with `augment.placement: trainer`: encoded blocks, views made by the trainer's threads
    published    (c) torch DataLoader, 2 workers, Pillow and torchvision's transforms, a file an image
    tensors      (d) torch DataLoader, 2 workers, torchvision's decoder and v2 transforms on tensors, a file an image

and (a, b) from the S3 server of the tests where its programs are installed. All may use both cores of the machine
(decode: one). The first third of each way warms up and is not counted; CPU seconds are those of the whole process
tree, Ray's own processes included.

`--memory`: PSS of the stream after 1 and after 20 epochs, and with an index of 10,000 and of 1,000,000 records.
`--idle`: what the stream takes of a core while its consumer, who has all it can hold, works on something else; with
and without the pauses of data/scheduling.py (predicted: 0.7 and below 0.1 beside a training that needs both cores).

Predicted before it was written: the parts of a block cost Ray about 10 ms, and moving 2 x 150 kB an image about
0.1 ms a copy, three copies: 0.3 ms beside 1.9 ms of decoding and views. So 450 images a CPU second of the 530 that
bench_augment.py gives, 5 times the published loader's, and the trainer placement a little more.

Found (Caltech-101's photos are smaller than those of bench_augment.py): 850 to 990 images a CPU second with actors,
650 to 910 in the trainer, whose threads share one interpreter: small images (CIFAR) show it most, with a third of
the actors' rate. From S3 no slower than from the local disk.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

from syn2co_ray.augment.recipes import view_bytes_per_image  # noqa: E402
from syn2co_ray.data.decode import decode_rgb  # noqa: E402
from syn2co_ray.data.index import build_index  # noqa: E402
from syn2co_ray.data.plan import Plan  # noqa: E402
from syn2co_ray.data.shards import write_shards  # noqa: E402
from syn2co_ray.data.source_index import SourceIndex  # noqa: E402
from syn2co_ray.data.stream import Stream, rank_streams, steps_of_blocks, window_dataset  # noqa: E402
from syn2co_ray.spec.job import PretrainSpec  # noqa: E402
from syn2co_ray.spec.load import load_text  # noqa: E402
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec  # noqa: E402
from syn2co_ray.storage import open_store, publish_bytes  # noqa: E402

PIXELS_MAX = 100_000_000
WORKERS = 2
BATCH = 128
FILL_S = 75.0
"""By then all that Ray's store takes has been made."""
SETS = {"caltech101": ("train", 224), "cifar10_jpeg": ("train", 32)}
JOB = """
kind: pretrain
name: bench
seed: 0
storage: /nowhere
data: {{train: [{{uri: {uri}}}], window_images: 1024, reader_cpus_each: 0.5}}
augment: {{recipe: byol, image_size: {size}, placement: {placement}, actors: {{min: 2, max: 2, cpus_each: 0.5}}}}
method: {{framework: moby, backbone: vit_tiny_patch16_224}}
train: {{images_per_step_global: {batch}, epochs: {epochs}, workers: {{min: 1, max: 1, cpus_each: 3}}, optimizer: {{warmup_epochs: 0}}}}
"""


@dataclass
class Measured:
    """One way through the data once: seconds to the first batch; images, wall and CPU seconds after a third."""

    images: int = 0
    first_s: float = 0.0
    rest_s: float = 0.0
    cpu_s: float = 0.0


def tree() -> list[psutil.Process]:
    """This process and all below it, but not the S3 server."""
    me = psutil.Process()
    found = [me]
    for child in me.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if not child.name().startswith(("ceph", "radosgw")):
                found.append(child)
    return found


def cpu_seconds() -> float:
    """Of all processes that live, and of this one's children that have ended."""
    ended = psutil.Process().cpu_times()
    total = ended.children_user + ended.children_system
    for process in tree():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def pss_mb() -> float:
    total = 0
    for process in tree():
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 1e6


def measured(batches: Callable[[], Iterator[int]], images: int) -> Measured:
    """Go through batches, each the number of its images."""
    result = Measured()
    started = time.perf_counter()
    source = batches()
    filling = next(source)
    result.first_s = time.perf_counter() - started
    while filling < images / 3:  # what was made ahead of the first batch would count for nothing
        filling += next(source)
    cpu, started = cpu_seconds(), time.perf_counter()
    result.images = sum(source)
    result.rest_s = time.perf_counter() - started
    result.cpu_s = cpu_seconds() - cpu
    return result


def job_of(uri: str, size: int, placement: str, epochs: int) -> PretrainSpec:
    text = JOB.format(uri=uri, size=size, placement=placement, batch=BATCH, epochs=epochs)
    job = load_text(text, ())
    assert isinstance(job, PretrainSpec)
    return job


def stream_of(job: PretrainSpec, index: SourceIndex) -> Stream:
    plan = Plan(
        seed=0,
        epochs=job.train.epochs,
        images_per_step_global=BATCH,
        window_images=job.data.window_images,
        fragment_rows=(index.fragment_rows,),
        shares=(None,),
        images_per_epoch=job.data.images_per_epoch,
    )
    return Stream(plan, (index,), job.object_store, view_bytes_per_image(job.augment), 0.5)


def ours(job: PretrainSpec, index: SourceIndex) -> Callable[[], Iterator[int]]:
    """Batches of one rank, as a training worker gets them."""

    def batches() -> Iterator[int]:
        import ray

        from syn2co_ray.train.feed import view_stage
        from syn2co_ray.train.own_views import OwnViews

        stream = stream_of(job, index)
        reference = ray.put(stream)
        (shard,) = rank_streams(
            window_dataset(stream.plan, 0),
            reference,
            first_step=0,
            world_size=1,
            reader_cpus_each=0.5,
            views=view_stage(job, [reference]),
        )
        own = job.augment.placement == "trainer"
        blocks: Iterator[Any] = iter(
            shard.iter_batches(batch_size=1, batch_format="pyarrow" if own else "numpy", prefetch_batches=2)
        )
        if own:
            blocks = OwnViews(job, [stream], "cpu")(blocks)
        for step in steps_of_blocks(blocks, 0, 0):
            assert step.views[0].shape[1:3] == (2, 3)
            yield len(step.views[0])

    return batches


def loader(files: list[Path], transform: Callable[[Path], Any]) -> Callable[[], Iterator[int]]:
    """A torch DataLoader over a file an image."""

    def batches() -> Iterator[int]:
        import torch

        files_read: torch.utils.data.Dataset[Any] = Files(files, transform)  # type: ignore[assignment]
        data = torch.utils.data.DataLoader(
            files_read, batch_size=BATCH, shuffle=True, num_workers=WORKERS, drop_last=True
        )
        for first, second in data:
            assert first.shape == second.shape
            yield len(first)

    return batches


class Files:
    """A map-style data set of files."""

    def __init__(self, files: list[Path], transform: Callable[[Path], Any]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Any:
        return self.transform(self.files[number])


class Published:
    """Pillow and torchvision's transforms, as in the published loaders."""

    def __init__(self, size: int) -> None:
        from tests.benchmarks import bench_augment

        bench_augment.IMAGE_SIZE = size
        self.first = bench_augment.published_pipeline(1.0, 0.0)
        self.second = bench_augment.published_pipeline(0.1, 0.2)

    def __call__(self, file: Path) -> Any:
        from PIL import Image

        picture = Image.open(file).convert("RGB")
        return self.first(picture), self.second(picture)


class Tensors:
    """torchvision's decoder and v2 transforms on uint8 tensors."""

    def __init__(self, size: int) -> None:
        import torch
        from torchvision.transforms import v2

        def view(blur: float, solarise: float) -> Any:
            return v2.Compose(
                [
                    v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
                    v2.RandomHorizontalFlip(),
                    v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
                    v2.RandomGrayscale(0.2),
                    v2.RandomApply([v2.GaussianBlur(23 if size > 64 else 3, (0.1, 2.0))], blur),
                    v2.RandomSolarize(128, solarise),
                ]
            )

        self.first, self.second = view(1.0, 0.0), view(0.1, 0.2)
        torch.set_num_threads(1)

    def __call__(self, file: Path) -> Any:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        image = decode_jpeg(read_file(str(file)), mode=ImageReadMode.RGB)
        return self.first(image), self.second(image)


def decoding(jpegs: list[bytes]) -> Callable[[], Iterator[int]]:
    def batches() -> Iterator[int]:
        for start in range(0, len(jpegs), BATCH):
            part = jpegs[start : start + BATCH]
            for jpeg in part:
                decode_rgb(jpeg, pixels_max=PIXELS_MAX)
            yield len(part)

    return batches


def photos(folder: Path, split: str) -> list[tuple[str, bytes, str]]:
    """(key, JPEG, label) of all rows."""
    rows: list[tuple[str, bytes, str]] = []
    for file in sorted(folder.glob(f"{split}-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
            rows.append((f"{len(rows):06d}", image, str(row["label"])))
    return rows


def write(rows: list[tuple[str, bytes, str]], uri: str) -> None:
    store = open_store(uri, ObjectStoreSpec())
    for name, _, data in write_shards(rows, 2048, 256):
        publish_bytes(store, name, data)


def is_jpeg(image: bytes) -> bool:
    return image[:2] == b"\xff\xd8"


def compare(name: str, rows: list[tuple[str, bytes, str]], folder: Path, rounds: int, s3: str) -> None:
    """All ways through one set, in turns."""
    size = SETS[name][1]
    write(rows, f"{folder}/{name}")
    files = folder / f"{name}-files"
    files.mkdir()
    for key, image, _ in rows:
        (files / f"{key}.jpg").write_bytes(image)
    some = sorted(files.iterdir())[: 16 * BATCH]
    uris = {"": f"{folder}/{name}"} | ({", S3": f"{s3}/{name}"} if s3 else {})
    if s3:
        write(rows, uris[", S3"])
    epochs = max(1, 6000 // len(rows))
    ways: dict[str, Callable[[], Iterator[int]]] = {
        "decode, one thread": decoding([image for _, image, _ in rows[:6000]]),
        "published loader": loader(some, Published(size)),
        "tensor loader": loader(some, Tensors(size)),
    }
    for where, uri in uris.items():
        index = build_index(SourceSpec(uri=uri), ObjectStoreSpec())
        for placement in ("actors", "trainer"):
            job = job_of(uri, size, placement, epochs)
            if len(rows) > 20_000:
                job = job.model_copy(
                    update={"data": job.data.model_copy(update={"images_per_epoch": 16_000})}
                )
            ways[f"ours, {placement}{where}"] = ours(job, index)
    lengths = {"published loader": len(some), "tensor loader": len(some)}
    results: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, batches in ways.items():
            results[way].append(measured(batches, lengths.get(way, 6000)))
    print(f"\n{name}: {len(rows):,} photos, two views of {size} pixels, {rounds} rounds in turns, medians")
    print(f"{'':24}{'images/s':>10}{'a CPU s':>9}{'x published':>13}{'(CPU)':>7}{'first s':>9}")
    speed = {way: statistics.median(m.images / m.rest_s for m in all_) for way, all_ in results.items()}
    lean = {way: statistics.median(m.images / m.cpu_s for m in all_) for way, all_ in results.items()}
    for way, all_ in results.items():
        first = statistics.median(m.first_s for m in all_)
        against = speed[way] / speed["published loader"], lean[way] / lean["published loader"]
        print(
            f"{way:24}{speed[way]:10.0f}{lean[way]:9.0f}{against[0]:13.2f}{against[1]:7.2f}{first:9.1f}",
            flush=True,
        )


def repeated(index: SourceIndex, records: int) -> SourceIndex:
    """An index of at least so many records, whose fragments are read from the same files again and again."""
    times = -(-records // index.num_records)
    return replace(
        index,
        fragment_file=np.tile(index.fragment_file, times),
        fragment_rows=np.tile(index.fragment_rows, times),
        fragment_first_row=np.tile(index.fragment_first_row, times),
        reader_arrays={name: np.tile(array, times) for name, array in index.reader_arrays.items()},
    )


def memory(rows: list[tuple[str, bytes, str]], folder: Path) -> None:
    """PSS of the tree while the stream runs: over the epochs, and over the size of the index."""
    write(rows[:10_000], f"{folder}/memory")
    index = build_index(SourceSpec(uri=f"{folder}/memory"), ObjectStoreSpec())
    job = job_of(f"{folder}/memory", 32, "actors", 20)
    images, epoch = 0, index.num_records
    seen: dict[int, float] = {}
    for count in ours(job, index)():
        before, images = images // epoch, images + count
        if images // epoch > before:
            seen[images // epoch] = pss_mb()
    shown = ", ".join(
        f"{number}: {seen[number]:.0f}" for number in sorted(seen) if number in (1, 2, 5, 10, 15, 19)
    )
    print(f"\nmemory over epochs of 10,000 (CIFAR-10, PSS of the tree, MB): {shown}")
    for records in (10_000, 1_000_000):
        part = job.model_copy(
            update={
                "data": job.data.model_copy(update={"images_per_epoch": 100_096}),
                "train": job.train.model_copy(update={"epochs": 1}),
            }
        )
        images, peak_mb = 0, 0.0
        for count in ours(part, repeated(index, records))():
            if images // 10_000 < (images + count) // 10_000:
                peak_mb = max(peak_mb, pss_mb())
            images += count
        print(f"index of {records:,} records, 100,000 images: at most {peak_mb:.0f} MB", flush=True)


def idle(rows: list[tuple[str, bytes, str]], folder: Path) -> None:
    """CPU seconds a second of the tree, from when the stream has nothing left to do."""
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    from syn2co_ray.data import stream

    write(rows, f"{folder}/idle")
    index = build_index(SourceSpec(uri=f"{folder}/idle"), ObjectStoreSpec())
    job = job_of(f"{folder}/idle", 32, "actors", 100)
    pausing = stream.IdlePause
    for name, callback in (("without", ExecutionCallback), ("with", pausing)):
        stream.IdlePause = callback  # type: ignore[misc]
        batches = ours(job, index)()
        next(batches)
        time.sleep(FILL_S)
        print(f"{name} pauses: {cpu_rate():.2f} CPU seconds a second while the consumer waits", flush=True)
        del batches
    stream.IdlePause = pausing  # type: ignore[misc]


def cpu_rate(watched_s: float = 10.0) -> float:
    cpu, started = cpu_seconds(), time.perf_counter()
    time.sleep(watched_s)
    return (cpu_seconds() - cpu) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--idle", action="store_true")
    options = parser.parse_args()
    from syn2co_ray.submit.cluster import connected
    from tests.object_store import missing_binaries, running_object_store

    sets = {name: photos(options.data / name, split) for name, (split, _) in SETS.items()}
    sets = {name: [row for row in rows if is_jpeg(row[1])] for name, rows in sets.items()}
    folder = Path(tempfile.mkdtemp(prefix="bench_data_path"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        s3 = ""
        if not (options.memory or options.idle) and not missing_binaries():
            server = stack.enter_context(running_object_store())
            os.environ |= server.environment
            s3 = server.make_bucket("bench")
        stack.enter_context(connected())
        if options.memory or options.idle:
            (memory if options.memory else idle)(sets["cifar10_jpeg"], folder)
            return
        for name, rows in sets.items():
            compare(name, rows, folder, options.rounds, s3)


if __name__ == "__main__":
    main()
