"""The main job on real images in a real S3 server: a short version of jobs/cifar10_laptop.yaml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import list_files, open_store, read_bytes

JOB = Path(__file__).resolve().parents[2] / "jobs/cifar10_laptop.yaml"


@pytest.mark.ray
@pytest.mark.object_store
def test_cifar10_from_s3_to_an_evaluated_encoder(shared_dir, s3_environment, tmp_path):
    images = shared_dir / "data/cifar10_jpeg"
    bucket = s3_environment.make_bucket("cifar-short")
    words = [
        f"storage={bucket}/runs",
        f"data.prepare.0.source.uri={images}/test-*.parquet",
        f"data.prepare.0.into={bucket}/train",
        "data.prepare.0.images_per_class=60",
        f"data.prepare.1.source.uri={images}/test-*.parquet",
        f"data.prepare.1.into={bucket}/eval",
        "data.prepare.1.images_per_class=20",
        f"data.train.0.uri={bucket}/train",
        f"data.eval.uri={bucket}/eval",
        "train.epochs=3",
        "train.optimizer.warmup_epochs=1",
        "evaluate.linear=null",
        "train.workers={min: 2, max: 2, cpus_each: 0.5}",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "syn2co_ray.cli", "run", str(JOB), *words],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
        env={**os.environ, **s3_environment.environment},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "600 images, 4 steps an epoch, 12 steps in all, 2 workers" in run.stdout
    store = open_store(f"{bucket}/runs", ObjectStoreSpec())
    names = {info.path.split("/", 1)[1] for info in list_files(store)}
    assert {"report.html", "results.json", "provenance.json", "views.png"} <= names
    assert "checkpoints/step-000000012/MANIFEST.json" in names
    (folder,) = {info.path.split("/", 1)[0] for info in list_files(store)}
    assert b'"status": "finished"' in read_bytes(store.child(folder), "results.json")
    assert not list(tmp_path.iterdir())
