"""`syn2co run` for `kind: generate`: what is missing of a data set, made by a pool of actors."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console

from ..generate.actor import ForActors, ShardActor
from ..generate.conditions import read_conditions
from ..generate.contact_sheet import contact_sheet_png
from ..generate.data_set import (
    CARD_FILE,
    MANIFEST_FILE,
    REPORT_FOLDER,
    SHEET_FILE,
    card,
    claim,
    drop_replaced_shards,
    first_images,
    manifest,
    missing_shards,
)
from ..generate.duplicates import plan_again
from ..generate.inputs import device_of, inputs_of_actors
from ..generate.parts import FOLDER
from ..generate.slots import Conditions, content_id, number_of_shards
from ..generate.weights import digest_of_all, local_pipeline
from ..run_metrics import GenerationMetrics
from ..spec.errors import RunInterrupted, error_from_json
from ..spec.generate import GenerateSpec
from ..spec.identity import run_name
from ..storage import Store, delete_folder, exists, open_store, publish_bytes, read_bytes
from .cluster import connected
from .live import about_shards
from .progress import Progress, duration
from .resources import check_actors
from .stop_signals import StopSignals

PLAIN_LINE_EVERY_S = 10.0
FRAMEWORK = "diffusion"
"""Of data sets, in metrics."""


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
        digest = digest_of_all(job.pipeline, job.object_store, folder)
        conditions, records = read_conditions(job)
        content = content_id(job, digest, conditions)
        store = open_store(job.into, job.object_store)
        claim(store, job, content, digest)
        was_whole = exists(store, MANIFEST_FILE)
        missing = missing_shards(store, job, conditions, content)
        progress.log(
            f"data set {job.name} {content}: {job.images:,} images in {number_of_shards(job):,} shards, "
            f"{len(missing):,} to make"
        )
        about = about_shards(job, folder, digest)
        if not missing and was_whole and _is_measured(store, job):
            return _finished(store, job, conditions, content, digest, about, progress)
        with connected(debug=debug) as cluster:
            stop.listen()
            check_actors(job.actors, cluster)
            for_actors = inputs_of_actors(job, store, conditions, records, progress.log)
            while True:
                done = _Done(job, len(missing), progress)
                for row in _made(job, missing, for_actors, digest, about) if missing else ():
                    done.add(row)
                    if stop.asked.is_set():
                        raise _interrupted(store, done)
                again = plan_again(store, job, conditions, content)
                if again is conditions:
                    break
                repeats = len(again.first_attempts.items() - conditions.first_attempts.items())
                conditions, for_actors = again, replace(for_actors, conditions=again)
                missing = missing_shards(store, job, conditions, content)
                progress.log(f"{repeats:,} images repeat one of another shard; they are made again")
            quality = _measured(job, progress)
        return _finished(store, job, conditions, content, digest, about, progress, quality)


def _is_measured(store: Store, job: GenerateSpec) -> bool:
    """Whether the manifest has the figures that `quality` asks for; they may be asked for later."""
    return job.quality is None or _manifest(store).get("quality_of") == job.quality.model_dump(mode="json")


def _manifest(store: Store) -> dict[str, Any]:
    """Of an earlier command; empty where there is none."""
    return dict(json.loads(read_bytes(store, MANIFEST_FILE))) if exists(store, MANIFEST_FILE) else {}


def _measured(job: GenerateSpec, progress: Progress) -> dict[str, float] | None:
    if job.quality is None:
        return None
    import ray

    from ..generate.quality import measure_quality

    task = ray.remote(num_cpus=job.actors.cpus_each, num_gpus=job.actors.gpus_each)(measure_quality)
    figures = ray.get(task.remote(job.quality, job.into, job.object_store, device_of(job)))
    progress.log("quality: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    return figures


def _made(
    job: GenerateSpec,
    missing: list[int],
    for_actors: ForActors,
    digest: str,
    about: dict[str, Any],
) -> Iterator[Mapping[str, Any]]:
    """One row a shard, in the order in which they get done."""
    import ray
    import ray.data

    shards = ray.data.from_items([{"shard": number} for number in missing], override_num_blocks=len(missing))
    rows = shards.map_batches(
        ShardActor,
        fn_constructor_kwargs={
            "job": job,
            "boxed": [ray.put(for_actors)],
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
        self.metrics = GenerationMetrics(run_name(job), FRAMEWORK)
        self.metrics.began()
        self.busy_s: dict[str, float] = {}
        self._said_at = -PLAIN_LINE_EVERY_S

    def add(self, row: Mapping[str, Any]) -> None:
        if row["error"]:
            raise error_from_json(str(row["error"]))
        self.finished += 1
        self.images += int(row["images"])
        rejects = json.loads(str(row["rejects"]))
        self.rejects.update(rejects)
        self.metrics.shard(int(row["images"]), rejects)
        self.busy_s[str(row["actor"])] = self.busy_s.get(str(row["actor"]), 0.0) + float(row["seconds"])
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
            f"{len(self.busy_s)} actors so far  "
            f"refused: {refused}  ETA {duration(left_s)}"
        )
        if self.job.price_per_gpu_hour is None or not self.job.actors.gpus_each:
            return line
        gpu_hours = elapsed_s / 3600 * self.job.actors.max * self.job.actors.gpus_each
        return f"{line}  at most {gpu_hours * self.job.price_per_gpu_hour:.2f} so far"


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
    quality: dict[str, float] | None = None,
) -> dict[str, Any]:
    claim(store, job, content, digest)
    drop_replaced_shards(store, job, conditions, content)
    counts = manifest(store, job, conditions, content)
    earlier = _manifest(store)
    if quality and job.quality:
        counts |= {"quality": quality, "quality_of": job.quality.model_dump(mode="json")}
    elif earlier.get("shards") == counts["shards"]:
        counts |= {name: earlier[name] for name in ("quality", "quality_of") if name in earlier}
    delete_folder(store.child(FOLDER))
    picture = contact_sheet_png(first_images(store, counts))
    publish_bytes(store.child(REPORT_FOLDER), SHEET_FILE, picture)
    publish_bytes(store, MANIFEST_FILE, json.dumps(counts, indent=1).encode())
    publish_bytes(store, CARD_FILE, card(job, content, digest, counts, about).encode())
    rejected = sum(counts["rejected"].values())
    progress.log(f"{job.images:,} images whole, {rejected:,} refused and made again")
    progress.log(f"data set: {store.uri}")
    return counts
