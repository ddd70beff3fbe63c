"""Folders of `kind: evaluate`, with the files and fields that `submit.evaluate` leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from syn2co_ray.report.run_files import load_run_files
from syn2co_ray.report.training_record import training_record
from syn2co_ray.spec.identity import resolved
from syn2co_ray.spec.load import build_spec

from .conftest import RunFolder

BANK = {"uri": "s3://bucket/imagenet/train", "fingerprint": "ab12cd34", "records": 1437}
EVAL = {"uri": "s3://bucket/imagenet/val", "fingerprint": "ef56ab78", "records": 389}
FEW_SHOT = {"few_shot": {"5": {"top1_percent": 80.0, "interval95_percent": 0.5}}}


def make_evaluation(
    folder: Path,
    training: RunFolder | None = None,
    row: dict[str, Any] | None = None,
    step: int = 100,
    encoder: str = "online",
    images: tuple[dict[str, Any], ...] = (BANK, EVAL),
    beside: dict[str, Any] | None = None,
    **job: Any,
) -> RunFolder:
    """A finished evaluation.

    Args:
        folder: where it goes; its name is the job's.
        training: whose weights were measured; `job` says which, when left out.
        row: figures of the weights besides k-NN.
        step, encoder: of the training's checkpoint.
        images: bank and evaluation images, with their fingerprints.
        beside: what results.json has beside its rows.
        job: keys of the job file.
    """
    run, uri = RunFolder(folder), training.store.uri if training else ""
    values = {"kind": "evaluate", "name": folder.name, "storage": "runs"}
    values |= {"weights": {"run": uri, "encoder": encoder}} if training else {}
    if images:
        values["data"] = {"eval_bank": {"uri": images[0]["uri"]}, "eval": {"uri": images[1]["uri"]}}
    run.write("spec.yaml", yaml.safe_dump(resolved(build_spec(values | job))))
    made: dict[str, Any] = {
        "source": f"step {step} of {uri}, {encoder} encoder",
        "digest": f"digest of {uri}",
    }
    if training is not None:
        known = training_record(load_run_files(training.store), uri, step, encoder)
        made["training"] = known.model_dump(mode="json")
    provenance = {"git_commit": "fedcba9876543210", "data": list(images), "weights": made}
    run.write("provenance.json", provenance)
    name = "random encoder" if "random_seed" in job.get("weights", {}) else "trained encoder"
    knn = {"knn_top1_percent": {"10": 60.0, "200": 50.0}} if images else {}
    rows = [{"features": name, **knn, **(row or {})}]
    rows += [{"features": "raw pixels", "knn_top1_percent": {"10": 20.0}}] if images else []
    run.write("results.json", {"status": "finished", "rows": rows, "device": "cpu", **(beside or {})})
    return run
