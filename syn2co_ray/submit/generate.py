"""`syn2co run` for `kind: generate`: what is missing of a data set, made by a pool of actors."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from .. import __version__
from ..data.index import build_index
from ..generate.actor import ForActors, ShardActor
from ..generate.conditions import RealRecords, read_conditions
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
from ..generate.gate import Gate, ReferenceHashes
from ..generate.parts import FOLDER
from ..generate.reference import fingerprint_of, fragment_hashes, loaded, saved
from ..generate.slots import Conditions, content_id, number_of_shards, shard_of
from ..generate.weights import INDEX_FILE, digest_of, local_pipeline, pipeline_class_name
from ..spec.errors import ResourceError, RunInterrupted, Syn2coError, error_from_json
from ..spec.generate import GenerateSpec
from ..storage import Store, delete_folder, exists, open_store, publish_bytes, read_bytes
from .cluster import Cluster, connected
from .progress import Progress, duration
from .stop_signals import StopSignals

PLAIN_LINE_EVERY_S = 10.0
REFERENCE_FOLDER = "_reference"


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
        was_whole = exists(store, MANIFEST_FILE)
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
        if not missing and was_whole:
            return _finished(store, job, conditions, content, digest, about, progress)
        with connected(debug=debug) as cluster:
            stop.listen()
            check_resources(job, cluster)
            for_actors = _for_actors(job, store, conditions, records, progress)
            while True:
                done = _Done(job, len(missing), progress)
                for row in _made(job, missing, for_actors, digest, about) if missing else ():
                    done.add(row)
                    if stop.asked.is_set():
                        raise _interrupted(store, done)
                again = plan_again(store, job, conditions, content)
                if again is conditions:
                    break
                repeats = len(again.first_attempts) - len(conditions.first_attempts)
                conditions, for_actors = again, replace(for_actors, conditions=again)
                missing = missing_shards(store, job, conditions, content)
                progress.log(f"{repeats:,} more images repeat one of another shard; they are made again")
            quality = _measured(job, progress)
        return _finished(store, job, conditions, content, digest, about, progress, quality)


def _for_actors(
    job: GenerateSpec,
    store: Store,
    conditions: Conditions,
    records: RealRecords | None,
    progress: Progress,
) -> ForActors:
    """What actors need, with what the gate compares to: made once, on the cluster."""
    import ray

    reference, features = None, None
    if job.gate.duplicates_of:
        reference = _reference(job, store, progress)
    if job.gate.embedding is not None:
        from ..generate.embedding_gate import real_features

        task = ray.remote(num_cpus=job.actors.cpus_each, num_gpus=job.actors.gpus_each)(real_features)
        features = ray.get(task.remote(job.gate.embedding, job.object_store, _device(job)))
        progress.log(f"gate: features of {len(features):,} real images")
    return ForActors(conditions, records, reference, features)


def _reference(job: GenerateSpec, store: Store, progress: Progress) -> ReferenceHashes:
    """Hashes of the sets that no image may repeat: kept beside the data set, for the next start."""
    import ray.data

    indexes = [build_index(source, job.object_store) for source in job.gate.duplicates_of]
    place, file = store.child(REFERENCE_FOLDER), f"{fingerprint_of(indexes)}.npz"
    if exists(place, file):
        return loaded(read_bytes(place, file))
    fragments = [
        {"set": number, "fragment": fragment}
        for number, index in enumerate(indexes)
        for fragment in range(len(index.fragment_rows))
    ]
    boxed = [ray.put((indexes, job.object_store))]
    rows = ray.data.from_items(fragments, override_num_blocks=len(fragments)).map_batches(
        _hashed, fn_kwargs={"boxed": boxed}, batch_size=1, batch_format="numpy"
    )
    rows.context.enable_progress_bars = False
    found = [(int(batch["set"][0]), batch["hash"]) for batch in rows.iter_batches(batch_size=None)]
    found.sort(key=lambda item: item[0])
    reference = ReferenceHashes(
        np.concatenate([hashes for _, hashes in found]).astype(np.uint64),
        np.concatenate([np.full(len(hashes), number) for number, hashes in found]),
        tuple(source.uri for source in job.gate.duplicates_of),
    )
    publish_bytes(place, file, saved(reference))
    progress.log(f"gate: {len(reference.hashes):,} real images that none may repeat")
    return reference


def _hashed(batch: dict[str, np.ndarray], boxed: list[Any]) -> dict[str, np.ndarray]:
    import ray

    indexes, options = ray.get(boxed[0])
    number = int(batch["set"][0])
    hashes = fragment_hashes(indexes[number], int(batch["fragment"][0]), options)
    return {"set": np.full(len(hashes), number), "hash": hashes}


def _measured(job: GenerateSpec, progress: Progress) -> dict[str, float] | None:
    if job.quality is None:
        return None
    import ray

    from ..generate.quality import measure_quality

    task = ray.remote(num_cpus=job.actors.cpus_each, num_gpus=job.actors.gpus_each)(measure_quality)
    figures = ray.get(task.remote(job.quality, job.into, job.object_store, _device(job)))
    progress.log("quality: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    return figures


def _device(job: GenerateSpec) -> str:
    return "cuda" if job.actors.gpus_each > 0 else "cpu"


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
        self.busy_s: dict[str, float] = {}
        self._said_at = -PLAIN_LINE_EVERY_S

    def add(self, row: Mapping[str, Any]) -> None:
        if row["error"]:
            raise error_from_json(str(row["error"]))
        self.finished += 1
        self.images += int(row["images"])
        self.rejects.update(json.loads(str(row["rejects"])))
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
    quality: dict[str, float] | None = None,
) -> dict[str, Any]:
    claim(store, job, content, digest)
    drop_replaced_shards(store, job, conditions, content)
    counts = manifest(store, job, conditions, content)
    earlier = json.loads(read_bytes(store, MANIFEST_FILE)) if exists(store, MANIFEST_FILE) else {}
    if quality or earlier.get("shards") == counts["shards"]:
        counts["quality"] = quality or earlier.get("quality")
    delete_folder(store.child(FOLDER))
    picture = contact_sheet_png(first_images(store, counts))
    publish_bytes(store.child(REPORT_FOLDER), SHEET_FILE, picture)
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
    slot = replace(slot_of(job, conditions, int(number)), first_attempt=_attempt(job, conditions, key))
    device = "cuda" if job.actors.gpus_each > 0 else "cpu"
    maker = ImageMaker(job, folder, device)

    def originals(slots: Any) -> list[np.ndarray] | None:
        return None if records is None else records.images(job, slots)

    made = make_shard(job, content, Shard(0, (slot,), ""), maker, originals, Gate(job.gate), {})
    row = pq.read_table(io.BytesIO(made.data)).to_pylist()[0]
    return row.pop("image"), row


def _attempt(job: GenerateSpec, conditions: Conditions, key: str) -> int:
    """The attempt at which an image was accepted; its first while its shard is not there."""
    content, _, number = key.rpartition("-")
    slot = int(number)
    store = open_store(job.into, job.object_store)
    shard = shard_of(job, conditions, content, slot // job.images_per_shard)
    if not exists(store, shard.file):
        return conditions.first_attempts.get(slot, 0)
    file = store.child(shard.file)
    with file.filesystem.open_input_file(file.path) as opened:
        attempts = pq.read_table(opened, columns=["attempt"])["attempt"]
    return int(attempts[slot % job.images_per_shard].as_py())
