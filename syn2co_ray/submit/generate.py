"""`syn2co run` for `kind: generate`: what is missing of a data set, made by a pool of actors."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console

from .. import __version__
from ..generate.conditions import RealRecords, read_conditions
from ..generate.data_set import (
    CARD_FILE,
    MANIFEST_FILE,
    card,
    claim,
    drop_shorter_last_shard,
    manifest,
    missing_shards,
)
from ..generate.slots import Conditions, content_id, number_of_shards
from ..generate.weights import INDEX_FILE, digest_of, local_pipeline, pipeline_class_name
from ..spec.errors import ResourceError, RunInterrupted, Syn2coError, error_from_json
from ..spec.generate import GenerateSpec
from ..storage import Store, open_store, publish_bytes
from .cluster import Cluster, connected
from .progress import Progress, duration
from .stop_signals import StopSignals

PLAIN_LINE_EVERY_S = 10.0


def run_generate(job: GenerateSpec, console: Console, *, debug: bool = False) -> dict[str, Any]:
    """Make the shards that are missing, then write manifest and card; returns the manifest.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; whole shards stay, the same command makes the rest.
        Syn2coError: anything else that went wrong, with what to do.
    """
    with Progress(console) as progress, StopSignals() as stop:
        # Before the cluster is connected, so that its logs are quiet as well.
        import ray.data  # noqa: F401

        folder = local_pipeline(job.pipeline, job.object_store)
        digest = digest_of(folder)
        conditions, records = read_conditions(job)
        content = content_id(job, digest, conditions)
        store = open_store(job.into, job.object_store)
        claim(store, job, content, digest)
        missing = missing_shards(store, job, conditions, content)
        progress.log(
            f"data set {job.name} {content}: {job.images:,} images in {number_of_shards(job):,} shards, "
            f"{len(missing):,} to make"
        )
        about = {
            "pipeline_class": pipeline_class_name(folder),
            "scheduler": job.pipeline.scheduler
            or json.loads((folder / INDEX_FILE).read_text()).get("scheduler", ["", "its own"])[1],
            "weights_sha256": digest,
            "code_version": __version__,
            **{name: version(name) for name in ("diffusers", "torch")},
        }
        if missing:
            with connected(debug=debug) as cluster:
                stop.listen()
                check_resources(job, cluster)
                done = _Done(job, len(missing), progress)
                for row in _made(job, missing, (conditions, records), digest, about):
                    done.add(row)
                    if stop.asked.is_set():
                        raise _interrupted(store, done)
        return _finished(store, job, conditions, content, digest, about, progress)


def _made(
    job: GenerateSpec,
    missing: list[int],
    conditions: tuple[Conditions, RealRecords | None],
    digest: str,
    about: dict[str, Any],
) -> Iterator[Mapping[str, Any]]:
    """One row a shard, in the order in which they get done."""
    import ray
    import ray.data

    from ..generate.actor import ShardActor

    shards = ray.data.from_items([{"shard": number} for number in missing], override_num_blocks=len(missing))
    rows = shards.map_batches(
        ShardActor,
        fn_constructor_kwargs={
            "job": job,
            "boxed": [ray.put(conditions)],
            "digest": digest,
            "about": about,
        },
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(
            min_size=min(job.actors.min, len(missing)), max_size=min(job.actors.max, len(missing))
        ),
        num_cpus=job.actors.cpus_each,
        num_gpus=job.actors.gpus_each,
    )
    rows.context.enable_progress_bars = False
    rows.context.print_on_execution_start = False
    for batch in rows.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=0):
        yield {name: values[0] for name, values in batch.items()}


class _Done:
    """Counts what is done, and says how fast it goes."""

    def __init__(self, job: GenerateSpec, shards: int, progress: Progress) -> None:
        self.job, self.shards, self.progress = job, shards, progress
        self.started = time.monotonic()
        self.images = self.finished = 0
        self.rejects: Counter[str] = Counter()
        self._said_at = -PLAIN_LINE_EVERY_S

    def add(self, row: Mapping[str, Any]) -> None:
        if row["error"]:
            raise error_from_json(str(row["error"]))
        self.finished += 1
        self.images += int(row["images"])
        self.rejects.update(json.loads(str(row["rejects"])))
        now = time.monotonic()
        if self.finished == self.shards or now - self._said_at >= PLAIN_LINE_EVERY_S:
            self._said_at = now
            self.progress.log(self.line(now - self.started))

    def line(self, elapsed_s: float) -> str:
        rate = self.images / elapsed_s
        left_s = elapsed_s / self.finished * (self.shards - self.finished)
        refused = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejects.items())) or "none"
        line = (
            f"{self.finished}/{self.shards} shards  {self.images:,} images  {rate:.1f} images/s  "
            f"refused: {refused}  ETA {duration(left_s)}"
        )
        if self.job.price_per_gpu_hour is None or not self.job.actors.gpus_each:
            return line
        gpu_hours = elapsed_s / 3600 * self.job.actors.max * self.job.actors.gpus_each
        return f"{line}  at most {gpu_hours * self.job.price_per_gpu_hour:.2f} so far"


def check_resources(job: GenerateSpec, cluster: Cluster) -> None:
    actors = job.actors
    if actors.min * actors.cpus_each > cluster.cpus or actors.min * actors.gpus_each > cluster.gpus:
        raise ResourceError(
            "actors",
            f"{actors.min} actors of {actors.cpus_each:g} CPUs and {actors.gpus_each:g} GPUs",
            f"what the cluster has: {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs",
            "lower actors.min, cpus_each or gpus_each, or add nodes",
        )


def _interrupted(store: Store, done: _Done) -> RunInterrupted:
    return RunInterrupted(
        store.uri,
        f"stopped after {done.finished} of {done.shards} shards",
        "",
        "whole shards stay: run the same command to make the rest",
    )


def _finished(
    store: Store,
    job: GenerateSpec,
    conditions: Conditions,
    content: str,
    digest: str,
    about: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    claim(store, job, content, digest)
    drop_shorter_last_shard(store, job, conditions, content)
    counts = manifest(store, job, conditions, content)
    publish_bytes(store, MANIFEST_FILE, json.dumps(counts, indent=1).encode())
    publish_bytes(store, CARD_FILE, card(job, content, digest, counts, about).encode())
    rejected = sum(counts["rejected"].values())
    progress.log(f"{job.images:,} images whole, {rejected:,} refused and made again")
    progress.log(f"data set: {store.uri}")
    return counts


def one_image(job: GenerateSpec, key: str) -> tuple[bytes, dict[str, Any]]:
    """Make one image of a data set again, in this process: its encoded bytes, and what is known about it.

    Raises:
        Syn2coError: the key is not one of this data set.
    """
    from ..generate.pipeline import ImageMaker
    from ..generate.shards import key_of, make_shard
    from ..generate.slots import Shard, slot_of

    folder = local_pipeline(job.pipeline, job.object_store)
    conditions, records = read_conditions(job)
    content = content_id(job, digest_of(folder), conditions)
    prefix, _, number = key.rpartition("-")
    if prefix != content or not number.isdecimal() or int(number) >= job.images:
        allowed = f"{key_of(content, 0)} to {key_of(content, job.images - 1)}"
        raise Syn2coError("--only", f"{key} is no key of this data set", allowed, "check the key")
    slot = slot_of(job, conditions, int(number))
    device = "cuda" if job.actors.gpus_each > 0 else "cpu"
    maker = ImageMaker(job, folder, device)

    def originals(slots: Any) -> list[np.ndarray] | None:
        return None if records is None else records.images(job, slots)

    import io

    import pyarrow.parquet as pq

    made = make_shard(job, content, Shard(0, (slot,), ""), maker, originals, {})
    row = pq.read_table(io.BytesIO(made.data)).to_pylist()[0]
    return row.pop("image"), row
