"""`syn2co ingest`: the shards that are missing, made by tasks all over the cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console

from ..data.index import build_index
from ..data.ingest import IngestPlan, make_plan
from ..data.ingest_files import (
    QUARANTINE,
    About,
    check_apart,
    check_quarantine,
    claim,
    finish,
    finished_manifest,
    known_shards,
    publish_shard,
)
from ..spec.errors import RunInterrupted, Syn2coError
from ..spec.ingest import IngestSpec
from ..storage import open_store
from .cluster import connected
from .progress import PLAIN_LINE_EVERY_S, Progress, duration
from .stop_signals import StopSignals

LOOK_EVERY_S: Final = 0.5
TASKS_PER_CPU: Final = 2
"""Shards asked for at once: more than there are CPUs, so that none waits and an autoscaler sees the need."""


def run_ingest(spec: IngestSpec, console: Console, *, debug: bool = False) -> dict[str, Any]:
    """Make the shards that are missing, then the manifest, which comes back.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; whole shards stay, the same command makes the rest.
        DataError, StorageError: source or place cannot be used, or too many images are unreadable.
    """
    with Progress(console) as progress, StopSignals() as stop:
        store = open_store(spec.into, spec.into_store)
        check_apart(spec.source.uri, store)
        # Absolute: tasks have working directories of their own.
        spec = spec.model_copy(update={"into": store.uri})
        plan = make_plan(spec, build_index(spec.source, spec.object_store))
        claim(store, plan)
        shards = known_shards(store, plan)
        missing = [number for number in range(plan.num_shards) if number not in shards]
        progress.log(
            f"{plan.index.source.uri}: {plan.index.num_records:,} images ({plan.index.schema_note}); "
            f"{plan.num_shards:,} shards, {len(missing):,} to make"
        )
        check_quarantine(store, plan, shards)
        manifest = finished_manifest(store, shards)
        if missing:
            with connected(debug=debug):
                stop.listen()
                done = _Done(plan, missing, progress)
                for number, about in _made(plan, missing, stop):
                    shards[number] = about
                    done.add(number)
                    check_quarantine(store, plan, shards)
            if len(shards) < plan.num_shards:
                raise RunInterrupted(
                    store.uri,
                    f"stopped after {len(shards)} of {plan.num_shards} shards",
                    "",
                    "whole shards stay: run the same command to make the rest",
                )
        if missing or manifest is None:
            manifest = finish(store, plan, shards)
        for line in summary(manifest, store.uri):
            progress.log(line)
        return manifest


def summary(manifest: dict[str, Any], uri: str) -> list[str]:
    """What a person wants to know at the end, and how to go on."""
    before, after = manifest["image_bytes_before"], manifest["image_bytes_after"]
    bad = f"{manifest['unreadable']:,} unreadable" + (f" ({QUARANTINE})" if manifest["unreadable"] else "")
    return [
        f"{manifest['images']:,} images in {len(manifest['shards']):,} shards, "
        f"{_megabytes(before)} -> {_megabytes(after)}, {bad}",
        f"train on it: {{uri: {uri}, origin: {manifest['options']['origin']}}}",
    ]


def _made(plan: IngestPlan, missing: list[int], stop: StopSignals) -> Iterator[tuple[int, About]]:
    """Shards as they get done, a bounded number of tasks at a time; none more once a stop is asked for."""
    import ray
    from ray.exceptions import RayTaskError

    task = ray.remote(num_cpus=1)(publish_shard)
    boxed = ray.put(plan)
    waiting = iter(missing)
    running: dict[Any, int] = {}
    # What runs at the end is left to end with this process, not cancelled: a cancellation that meets a task's
    # answer aborts the process (Ray 2.60, a failed check in its task manager).
    while not stop.asked.is_set():
        # Asked each time: nodes come and go.
        room = max(2, int(TASKS_PER_CPU * ray.cluster_resources().get("CPU", 1.0)))
        for number in waiting if len(running) < room else ():
            running[task.remote(boxed, number)] = number
            if len(running) == room:
                break
        if not running:
            return
        ready, _ = ray.wait(list(running), timeout=LOOK_EVERY_S)
        for reference in ready:
            try:
                about = ray.get(reference)
            except RayTaskError as error:
                if isinstance(error.cause, Syn2coError):
                    raise error.cause from None
                raise
            yield running.pop(reference), about


class _Done:
    """Counts the images of this run, and says how fast it goes."""

    def __init__(self, plan: IngestPlan, missing: list[int], progress: Progress) -> None:
        self.plan, self.progress = plan, progress
        self.images_to_do = sum(map(plan.rows_of, missing))
        self.shards_to_do = len(missing)
        self.images = self.shards = 0
        self._started = time.monotonic()
        self._said_at = -PLAIN_LINE_EVERY_S

    def add(self, number: int) -> None:
        self.shards += 1
        self.images += self.plan.rows_of(number)
        now = time.monotonic()
        if self.shards == self.shards_to_do or now - self._said_at >= PLAIN_LINE_EVERY_S:
            self._said_at = now
            rate = self.images / (now - self._started)
            left_s = (self.images_to_do - self.images) / rate
            self.progress.log(
                f"{self.shards}/{self.shards_to_do} shards  {self.images:,} images  {rate:.0f} images/s  "
                f"ETA {duration(left_s)}"
            )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
