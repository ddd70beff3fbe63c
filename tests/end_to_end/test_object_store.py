"""The main job on real images in a real S3 server: a short version of jobs/cifar10_laptop.yaml.

The keys of its user are looked for in everything that it leaves: bucket, Ray's session, output, command lines.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import list_files, open_store, read_bytes

from ..object_store import ObjectStore

JOB = Path(__file__).resolve().parents[2] / "jobs/cifar10_laptop.yaml"


CANARY = "canary/5e1f+not=to&be-left"


def command_lines() -> Iterator[bytes]:
    """Those of all processes."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield file.read_bytes()


@pytest.fixture
def bucket(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a user whose secret key is found wherever it was left."""
    with object_store.user("careful") as user:
        keys = user.new_keys("careful", "canary-access-key", CANARY)
        for name, value in keys.environment.items():
            monkeypatch.setenv(name, value)
        yield keys.make_bucket("cifar-short")


@pytest.mark.ray
@pytest.mark.object_store
def test_cifar10_from_s3_to_an_evaluated_encoder_without_a_trace_of_the_keys(shared_dir, bucket, tmp_path):
    images = shared_dir / "data/cifar10_jpeg"
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
    with tempfile.TemporaryDirectory(prefix="ray-") as session:
        run = subprocess.Popen(
            [sys.executable, "-m", "syn2co_ray.cli", "run", str(JOB), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "RAY_TMPDIR": session},
        )
        said = ""
        for line in run.stdout:
            said += line
            assert not [words for words in command_lines() if CANARY.encode() in words]
        assert run.wait(60) == 0, said
        left = [file for file in Path(session).rglob("*") if file.is_file()]
        assert any(file.name == "raylet.out" for file in left)
        assert not [file for file in left if CANARY.encode() in file.read_bytes()]
    assert CANARY not in said
    assert "600 images, 4 steps an epoch, 12 steps in all, 2 workers" in said
    store = open_store(f"{bucket}/runs", ObjectStoreSpec())
    names = {info.path.split("/", 1)[1] for info in list_files(store)}
    assert {"report.html", "results.json", "provenance.json", "views.png"} <= names
    assert "checkpoints/step-000000012/MANIFEST.json" in names
    (folder,) = {info.path.split("/", 1)[0] for info in list_files(store)}
    assert b'"status": "finished"' in read_bytes(store.child(folder), "results.json")
    assert not [info.path for info in list_files(store) if CANARY.encode() in read_bytes(store, info.path)]
    assert not list(tmp_path.iterdir())
