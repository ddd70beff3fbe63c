"""The live source of a training: what its generator is told, started and asked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.live import LiveReader
from ..data.plan import Plan
from ..data.stream import Stream
from ..generate.conditions import RealRecords, read_conditions
from ..generate.contact_sheet import contact_sheet_png
from ..generate.data_set import claim, first_images
from ..generate.ledger import shards_of_run
from ..generate.slots import Conditions, content_id
from ..generate.weights import INDEX_FILE, digest_of_all, local_pipeline, pipeline_class_name
from ..spec.generate import GenerateSpec, GeneratorSpec
from ..spec.identity import run_name
from ..spec.job import TrainingSpec
from ..spec.live import LiveSpec
from ..storage import Store, list_files, open_store, publish_bytes
from ..storage.run_layout import SAMPLES_FILE
from .resources import asked_for_training

FOLDER = "live"
STOP_WAIT_S = 10.0


@dataclass(frozen=True)
class PreparedLive:
    """What is known of a live source before the cluster is asked for anything."""

    spec: LiveSpec
    job: GenerateSpec
    conditions: Conditions
    records: RealRecords | None
    weights_digest: str
    about: dict[str, Any]
    shared: Store | None = None
    """Where the trials of a search leave shards for one another."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Where its images come from."""
        content = content_id(self.job, self.weights_digest, self.conditions)
        return {"pipeline": self.job.pipeline.source, "content": content, **self.about}


def prepare_live(job: TrainingSpec, run: Store, plan: Plan, shared: Store | None = None) -> PreparedLive:
    """Find the pipeline and what conditions its images, and claim the pool's folder.

    Raises:
        SpecError: a pipeline that cannot be used, or one that changed since the run began.
        DataError, StorageError: captions or records that cannot be read.
    """
    live = job.data.live
    assert live is not None
    settings = {name: getattr(live.generator, name) for name in GeneratorSpec.model_fields}
    whole = GenerateSpec(
        kind="generate",
        name=job.name,
        seed=job.seed,
        into=run.child(FOLDER).uri,
        images=shards_of_run(live, plan.live_passes) * live.generator.images_per_shard,
        object_store=job.object_store,
        **settings,
    )
    folder = local_pipeline(whole.pipeline, whole.object_store)
    digest = digest_of_all(whole.pipeline, whole.object_store, folder)
    conditions, records = read_conditions(whole)
    claim(open_store(whole.into, whole.object_store), whole, content_id(whole, digest, conditions), digest)
    pool = shared.child(FOLDER) if shared is not None else None
    return PreparedLive(live, whole, conditions, records, digest, about_shards(whole, folder, digest), pool)


def about_shards(job: GenerateSpec, folder: Path, digest: str) -> dict[str, Any]:
    """Plain values for the metadata of shards: what made their images."""
    index = json.loads((folder / INDEX_FILE).read_text())
    return {
        "pipeline_class": pipeline_class_name(folder),
        "scheduler": job.pipeline.scheduler or index.get("scheduler", ["", "its own"])[1],
        "weights_sha256": digest,
        "code_version": __version__,
        **{name: version(name) for name in ("diffusers", "torch")},
    }


class LiveSource:
    """The running generator of a training, as its driver sees it."""

    def __init__(
        self,
        prepared: PreparedLive,
        training: TrainingSpec,
        workers: int,
        plan: Plan,
        log: Callable[[str], None],
    ) -> None:
        import ray

        from ..generate.inputs import inputs_of_actors
        from ..generate.live import LiveGenerator, LiveJob

        self.plan, self.job = plan, prepared.job
        self.store = open_store(self.job.into, self.job.object_store)
        given = inputs_of_actors(self.job, self.store, prepared.conditions, prepared.records, log)
        asked = asked_for_training(training, workers, training.augment.actors.max)
        task = LiveJob(
            live=prepared.spec,
            job=self.job,
            passes=plan.live_passes,
            passes_ahead=plan.live_passes_ahead,
            weights_digest=prepared.weights_digest,
            about=prepared.about,
            cpus_for_training=asked.cpus,
            gpus_for_training=asked.gpus,
            shared=prepared.shared,
            run=run_name(training),
            framework=training.method.framework,
        )
        self.actor = LiveGenerator.remote(task, [ray.put(given)])  # type: ignore[attr-defined]
        self._running = self.actor.run.remote()
        self._pass = -1

    def joined_to(self, stream: Stream) -> Stream:
        """The training's stream with this source in it."""
        assert self.plan.live is not None
        return replace(stream, live=LiveReader(self.store, self.plan.live, self.actor))

    def trained(self, step: int) -> None:
        """Training has done so many global steps."""
        assert self.plan.live is not None
        number = self.plan.live_images_before(step) // self.plan.live.images
        if number > self._pass:
            self._pass = number
            self.actor.trained_up_to.remote(number)

    def look(self) -> dict[str, Any]:
        """Counts of this start: images made and ready, passes, late ones, longest wait, actors."""
        import ray

        return dict(ray.get(self.actor.look.remote()))

    def leave_picture(self, run: Store) -> None:
        """Put a contact sheet of the pool's newest shard into the run's folder."""
        files = sorted(info.path for info in list_files(self.store, recursive=False))
        shards = [{"file": name} for name in files if name.startswith("shard-")][-1:]
        if shards:
            images = first_images(self.store, {"name": self.job.name, "shards": shards})
            publish_bytes(run, SAMPLES_FILE, contact_sheet_png(images))

    def stop(self) -> None:
        """Stop generating; the pool stays."""
        import ray

        self.actor.end.remote()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._running, timeout=STOP_WAIT_S)
