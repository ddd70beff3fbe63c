"""What the trials of a search share: images generated and bytes read, against the same trainings one by one.

    python -m tests.benchmarks.bench_shared_work [--epochs 4]

Runs a search over kinds of negatives on `jobs/digits_live.yaml` (a quarter of each step is generated while it
trains), one trial after the other, with everything in the S3 server of the tests; then each trial's own job file
as a run for itself, in another prefix. Bytes and requests are those that the proxy before the server counts.

Predicted before measuring: all generated images but those of the first trial are copies, so a third of the images
with three trials. Bytes: copies are read once more than images that were just made, and the digits are so small
that lists, checkpoints and Parquet footers outweigh them: about as many bytes with sharing as without, and no
gain there. What sharing saves is generating.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import list_files, open_store, read_bytes
from tests.faulty_store import FaultyStore, running_faulty_store
from tests.object_store import running_object_store

ROOT = Path(__file__).resolve().parents[2]
KINDS: list[dict[str, Any]] = [
    {"hardest": 64, "interpolated": 64},
    {"hardest": 64, "extrapolated": 64},
    {"hardest": 64, "noise": {"count": 64}},
]


@dataclass(frozen=True)
class Work:
    """What a way of running the trials took."""

    name: str
    images_made: int
    images_copied: int
    bytes_sent: int
    requests: int
    wall_s: float


def search_job(epochs: int) -> dict[str, Any]:
    return {
        "kind": "search",
        "name": "shared-work",
        "metric": "knn",
        "searcher": "grid",
        "max_concurrent": 1,
        "base": {
            "base": str(ROOT / "jobs/digits_live.yaml"),
            "storage": "s3://bench/searches",
            "data": {
                "prepare": [{"dataset": "digits", "into": "s3://bench/digits"}],
                "train": [{"uri": "s3://bench/digits/train", "share": 0.75}],
                "eval": {"uri": "s3://bench/digits/eval"},
            },
            "train": {"epochs": epochs, "optimizer": {"warmup_epochs": 1}},
            "evaluate": {"knn": {"every_epochs": epochs}, "linear": None, "baselines": False},
        },
        "space": {"method.negatives": {"grid": KINDS}},
    }


def syn2co(*words: str) -> None:
    command = [sys.executable, "-m", "syn2co_ray.cli", *words]
    if subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode:
        sys.exit(f"{' '.join(words)} failed")


def work_of(name: str, proxy: FaultyStore, prefix: str, run: Callable[[], None]) -> Work:
    """Run, and count what the store gave and what its runs say they made."""
    sent, requests, started = proxy.bytes_sent(), proxy.requests(), time.perf_counter()
    run()
    took_s = time.perf_counter() - started
    sent, requests = proxy.bytes_sent() - sent, proxy.requests() - requests
    store = open_store(prefix, ObjectStoreSpec())
    results = [
        json.loads(read_bytes(store, info.path))
        for info in list_files(store)
        if info.path.endswith("/results.json")
    ]
    live = [result["live"] for result in results if "live" in result]
    assert len(live) == len(KINDS)
    made, copied = (sum(row[f"images_{what}"] for row in live) for what in ("made", "shared"))
    return Work(name, made, copied, sent, requests, took_s)


def trials_of(prefix: str, folder: Path) -> list[Path]:
    """The job file of each trial of the search."""
    store = open_store(prefix, ObjectStoreSpec())
    files: list[Path] = []
    for info in list_files(store):
        if "/trials/" in info.path and info.path.endswith("/spec.yaml"):
            job = yaml.safe_load(read_bytes(store, info.path))
            files.append(folder / f"{len(files)}.yaml")
            files[-1].write_text(yaml.safe_dump(job | {"storage": "s3://bench/alone"}))
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4, help="of each trial")
    epochs = parser.parse_args().epochs
    with (
        tempfile.TemporaryDirectory() as name,
        running_object_store() as server,
        running_faulty_store(server) as proxy,
    ):
        folder = Path(name)
        os.environ |= proxy.store.environment
        server.make_bucket("bench")
        search = folder / "search.yaml"
        search.write_text(yaml.safe_dump(search_job(epochs)))
        together = work_of("a search", proxy, "s3://bench/searches", lambda: syn2co("run", str(search)))
        jobs = trials_of("s3://bench/searches", folder)
        alone = work_of(
            "one by one", proxy, "s3://bench/alone", lambda: syn2co("run", *(str(job) for job in jobs))
        )
    print("\n             images made   copied   MB from the store   requests   seconds")
    for work in (together, alone):
        print(
            f"{work.name:<12} {work.images_made:11,d} {work.images_copied:8,d} {work.bytes_sent / 1e6:19.1f} "
            f"{work.requests:10,d} {work.wall_s:9.0f}"
        )
    print(
        f"a search makes {together.images_made / alone.images_made:.0%} of the images and reads "
        f"{together.bytes_sent / alone.bytes_sent:.0%} of the bytes"
    )


if __name__ == "__main__":
    main()
