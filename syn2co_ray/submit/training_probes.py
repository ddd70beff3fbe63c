"""The part of an evaluation that trains: each probe is a run of its own below the evaluation's folder.

    probes/backbone-<digest>.safetensors      weights that probes begin with
    probes/labels-<share>/                    images of a part of the labels
    probes/<name>-<hash of the spec>/         a run folder

A run is found again by its hash, and what is finished is not trained again: the same command after a stop
goes on with the probe that was stopped, at its newest checkpoint.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any

from ..data.index import build_index
from ..data.subset import shards_of_keys
from ..evaluate.labelled import LabelledSet
from ..report.page import write_report
from ..spec.errors import CheckpointError, RunInterrupted
from ..spec.evaluation import EvaluateJobSpec
from ..spec.identity import run_name, spec_hash
from ..spec.probe import LinearGridMethodSpec, ProbeSpec
from ..spec.probe_jobs import Probed, fine_tune_job, linear_job
from ..spec.source import SourceSpec
from ..storage import Store, exists, publish_bytes
from ..storage.run_layout import RESULTS_FILE
from ..train.checkpoint import Checkpoint, load_newest
from .cluster import Cluster
from .prepare import EvaluationSets, PreparedRun, keep_index, prepare_run
from .pretraining import train
from .progress import Progress
from .resources import choose_workers
from .stop_signals import StopSignals

FOLDER = "probes"
LABELS_WHOLE = "manifest.json"


@dataclass(frozen=True)
class TrainingProbes:
    """Trains on a cluster what a job's sections ask for.

    Attributes:
        job: the evaluation.
        store: its folder.
        source: the backbone that is measured, for architecture and image size (`LoadedBackbone`).
        bank, queries: what is learned from and what is classified.
        cluster: the cluster that this process is connected to.
        progress: gets lines, and what the runs do.
        stop: asked before and within each run.
    """

    job: EvaluateJobSpec
    store: Store
    source: Any
    bank: LabelledSet
    queries: LabelledSet
    cluster: Cluster
    progress: Progress
    stop: StopSignals

    def measure(self, network: Any, bank: Any, queries: Any, classes: Any) -> dict[str, Any]:
        """Figures of one network, as fields of its row of results.

        Args:
            network: a backbone and its digest (`feature_shards.Network`).
            bank, queries: features of the evaluation view (`FeatureSet`).
            classes: of both (`measures.Classes`).

        Raises:
            RunInterrupted: a stop was asked for; a whole checkpoint was published first.
            Syn2coError: a run failed.
        """
        from ..evaluate.training_probes import publish_weights

        probed = self._probed(network, classes)
        found: dict[str, Any] = {}
        if self.job.linear_augmented is not None:
            job = linear_job(self.job, probed)
            publish_weights(self.store.child(FOLDER), job.weights_file, network.backbone)
            found["linear_augmented"] = self._linear(job, bank, queries, classes)
        if self.job.fine_tune is not None:
            found["fine_tune"] = {}
            for share in self.job.fine_tune.shares:
                job = fine_tune_job(self.job, self._part(probed, share, bank, classes), share)
                publish_weights(self.store.child(FOLDER), job.weights_file, network.backbone)
                found["fine_tune"][f"{share:g}"] = self._fine_tuned(job)
        return found

    def _probed(self, network: Any, classes: Any) -> Probed:
        return Probed(
            name=network.name.split()[0],
            architecture=self.source.architecture,
            image_size=self.source.image_size,
            digest=network.digest,
            classes=classes.names,
            source=self.job.labelled.eval_bank,
            images=self.bank.indexes[0].num_records,
            storage=self.store.child(FOLDER).uri,
        )

    def _linear(self, job: ProbeSpec, bank: Any, queries: Any, classes: Any) -> dict[str, Any]:
        from ..evaluate.training_probes import check_held_out, grid_figures

        check_held_out(bank, job.seed)
        prepared, _ = self._trained(job, None)
        checkpoint = _final_checkpoint(prepared)
        learnt, asked = classes.numbers(bank.labels), classes.numbers(queries.labels)
        assert isinstance(job.method, LinearGridMethodSpec)
        rates = job.method.learning_rates
        figures = grid_figures(checkpoint.method, rates, bank, learnt, queries, asked, job.seed)
        return {**figures, "images": len(bank.keys), "run": run_name(job)}

    def _fine_tuned(self, job: ProbeSpec) -> dict[str, Any]:
        prepared, results = self._trained(job, EvaluationSets(self.bank, self.queries))
        images = prepared.stream.indexes[0].num_records
        return {**results["rows"][0]["fine_tune"], "images": images, "run": run_name(job)}

    def _trained(self, job: ProbeSpec, sets: EvaluationSets | None) -> tuple[PreparedRun, dict[str, Any]]:
        """A finished run, of now or before."""
        if job.data.train[0].uri == self.job.labelled.eval_bank.uri:
            # What features were made of, though files may have been added meanwhile.
            keep_index(self.store.child(FOLDER, run_name(job)), "train-0", self.bank.indexes[0])
        prepared = replace(prepare_run(job, self.progress.log), evaluation=sets)
        results = prepared.run.read_json(RESULTS_FILE)
        if results is not None and results["status"] == "finished":
            self.progress.log(f"trained before: {run_name(job)}")
            return prepared, results
        if self.stop.asked.is_set():
            raise self._stopped(job, "before its first step")
        workers = choose_workers(job, self.cluster.cpus, self.cluster.node_gpus).workers
        plan, now = prepared.plan, time.time()
        self.progress.begin_run()
        self.progress.log(
            f"probe {run_name(job)}: {sum(plan.records):,} images, {plan.total_steps:,} steps, "
            f"{workers} workers"
        )
        marks = {"command": now, "started": now}
        results = train(prepared, workers, self.progress, self.stop.asked, marks)
        write_report(prepared.run.store)
        if results["status"] == "interrupted":
            raise self._stopped(job, f"after step {results['steps']} of {plan.total_steps}")
        return prepared, results

    def _stopped(self, job: ProbeSpec, when: str) -> RunInterrupted:
        return RunInterrupted(
            self.store.child(FOLDER, run_name(job)).uri,
            f"stopped {when}",
            "",
            "its checkpoint is whole, and so is what was measured before: run the same command to resume",
        )

    def _part(self, probed: Probed, share: float, bank: Any, classes: Any) -> Probed:
        """The same with a share of the labels, as `label_shares` draws it; its images are copied, once."""
        if share == 1:
            return probed
        from ..evaluate.measures import labelled_share

        store = self.store.child(FOLDER, f"labels-{share:g}")
        if not exists(store, LABELS_WHOLE):
            rows = labelled_share(classes.numbers(bank.labels), share, self.job.seed).tolist()
            shards = []
            keys = {bank.keys[row] for row in rows}
            for name, images, data in shards_of_keys(self.bank.indexes[0], keys, self.job.object_store):
                publish_bytes(store, name, data)
                shards.append({"file": name, "images": images})
            publish_bytes(store, LABELS_WHOLE, json.dumps({"shards": shards}, indent=1).encode())
            self.progress.log(f"copied {len(rows):,} images: {100 * share:g} % of the labels")
        source = SourceSpec(uri=store.uri, format="parquet", origin=self.job.labelled.eval_bank.origin)
        images = build_index(source, self.job.object_store).num_records
        return replace(probed, source=source, images=images)


def _final_checkpoint(prepared: PreparedRun) -> Checkpoint:
    """That of a finished run's last step.

    Raises:
        CheckpointError: it is damaged or gone: an older one would give the figures of an earlier epoch.
    """
    run, last = prepared.run.store, prepared.plan.total_steps
    checkpoint, rejected = load_newest(run, spec_hash(prepared.job))
    if checkpoint is None or checkpoint.step != last:
        newest = f"step {checkpoint.step} as the newest" if checkpoint else "no whole checkpoint"
        why = "".join(f" ({fault})" for fault in rejected)
        step = "delete this folder and run the same command: the probe is trained again"
        raise CheckpointError(run.uri, f"{newest} of a finished probe{why}", f"that of step {last}", step)
    return checkpoint
