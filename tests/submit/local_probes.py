"""An evaluation whose training probes run in this process: the same streams and loops, without Ray."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from syn2co_ray.evaluate.training_probes import begin_with_weights, classified
from syn2co_ray.spec.load import load_text
from syn2co_ray.storage.run_layout import RESULTS_FILE
from syn2co_ray.submit import cluster as cluster_module
from syn2co_ray.submit import training_probes
from syn2co_ray.submit.cluster import Cluster
from syn2co_ray.submit.evaluate import run_evaluate
from syn2co_ray.submit.prepare import PreparedRun
from syn2co_ray.train.wish import Wish

from ..train.local_run import local_loop

JOB = """\
kind: evaluate
name: digits
seed: 0
storage: {folder}/evaluations
weights:
  random_seed: 3
  backbone: vit_tiny_patch16_224
  image_size: 16
  patch_size: 8
  backbone_options: {{embed_dim: 32, depth: 1, num_heads: 2}}
data:
  prepare: [{{dataset: digits, into: {folder}/digits}}]
  eval: {{uri: {folder}/digits/eval}}
  eval_bank: {{uri: {folder}/digits/train}}
knn: null
linear: null
baselines: false
"""
UNAUGMENTED = "crop_scale: [1.0, 1.0], flip_probability: 0"


def evaluation(folder: Path, *overrides: str) -> Any:
    return load_text(JOB.format(folder=folder), overrides)


def on_cifar10(shared_dir: Path, folder: Path, bank_each: int, eval_each: int) -> list[str]:
    """Overrides for some JPEGs of each class of CIFAR-10, which are copied to `folder`; 32 x 32 pixels."""
    steps, sets = [], []
    for name, files, each in (("eval_bank", "train-00000*", bank_each), ("eval", "test-*", eval_each)):
        source, into = f"{shared_dir}/data/cifar10_jpeg/{files}", f"{folder}/cifar10/{name}"
        steps.append(
            f"{{dataset: subset, source: {{uri: '{source}'}}, into: {into}, images_per_class: {each}}}"
        )
        sets.append(f"data.{name}={{uri: {into}}}")
    return [f"data.prepare=[{', '.join(steps)}]", *sets]


class LocalTraining:
    """Stands in for `pretraining.train`; keeps each loop, and stops one before a step if asked to."""

    def __init__(self) -> None:
        self.loops: dict[str, Any] = {}
        self.stop_before_step: int | None = None

    def __call__(
        self, prepared: PreparedRun, workers: int, progress: Any, stop: threading.Event, marks: Any
    ) -> dict[str, Any]:
        job: Any = prepared.job
        loop = local_loop(prepared, begin=lambda method: begin_with_weights(job, method))
        self.loops[job.name] = loop

        def wish() -> Wish:
            if loop.step == self.stop_before_step:
                stop.set()
            return Wish.STOP if stop.is_set() else Wish.GO_ON

        loop.context.wish = wish
        outcome, rows = loop.run_to_end(), None
        if outcome.status == "finished" and prepared.evaluation is not None:
            rows = classified(job, loop.trainer.method, prepared.evaluation.queries, loop.context)
        results = {"status": outcome.status, "steps": outcome.step, "rows": rows or []}
        prepared.run.write_json(RESULTS_FILE, results)
        return results


@contextlib.contextmanager
def _no_cluster(**_: Any) -> Iterator[Cluster]:
    yield Cluster(cpus=64.0, node_gpus=(0.0,), is_local=True)


@pytest.fixture
def local_training(monkeypatch: pytest.MonkeyPatch) -> LocalTraining:
    """Evaluations of this test train here."""
    local = LocalTraining()
    monkeypatch.setattr(training_probes, "train", local)
    monkeypatch.setattr(training_probes, "write_report", lambda store: "")
    monkeypatch.setattr(cluster_module, "connected", _no_cluster)
    return local


def evaluated(job: Any) -> tuple[dict[str, Any], str]:
    """Results, and what was said."""
    out = io.StringIO()
    return run_evaluate(job, Console(file=out, width=300)), out.getvalue()
