"""A run folder as training writes it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import Store, open_store
from syn2co_ray.storage.run_layout import eval_file, steps_file

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SPEC = """\
kind: pretrain
name: digits-synby
seed: 0
method: {framework: synby, backbone: vit_tiny_patch16_224}
evaluate:
  knn: {neighbours: [20, 10]}
"""
KINDS = ("interpolated", "noise")


class RunFolder:
    """Writes the files of a run, one sort at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store: Store = open_store(str(path), ObjectStoreSpec())

    def write(self, name: str, content: str | bytes | dict[str, Any]) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def write_lines(self, name: str, records: Iterable[dict[str, Any]]) -> None:
        self.write(name, "".join(json.dumps(record) + "\n" for record in records))

    def write_steps(self, first: int, last: int, **fields: Any) -> None:
        self.write_lines(steps_file(first), (step_record(step) | fields for step in range(first, last + 1)))

    def write_finished(self) -> None:
        self.write("spec.yaml", SPEC)
        self.write("provenance.json", PROVENANCE)
        self.write("results.json", RESULTS)
        self.write("views.png", PNG)
        self.write_steps(0, 99)
        for step in (50, 100):
            knn = {"10": 70 + step / 10, "20": 69.5 + step / 10}
            self.write(eval_file(step), {"step": step, "epoch": step // 10, "knn": knn})
        self.write_lines("quarantine.jsonl", [quarantine_record("train/07#3")])


def step_record(step: int) -> dict[str, Any]:
    stats = {"positive/logit": 0.5, "queue/logit": 0.02, "queue/mass": 0.7}
    if step >= 20:
        stats |= {f"negatives/{kind}/{what}": 0.1 for kind in KINDS for what in ("logit", "mass")}
    return {
        "step": step,
        "epoch": step // 10,
        "loss": 12 - step / 20 + (step % 3) / 10,
        "learning_rate": 1e-3,
        "momentum": 0.99,
        "gradient_norm": 1 + step % 5,
        "images_per_s": 800 + step,
        "data_wait_share": 0.04,
        "step_time_s": 0.1,
        "skipped": False,
        "stats": stats,
    }


def quarantine_record(key: str, **fields: Any) -> dict[str, Any]:
    return {
        "key": key,
        "source": "s3://bucket/train",
        "reason": "truncated JPEG",
        "replaced_by": "train/07#4",
        "step": 12,
    } | fields


PROVENANCE = {
    "spec_hash": "3fa9c1d2" + "0" * 56,
    "code_version": "0.1.0",
    "git_commit": None,
    "libraries": {"torch": "2.15.0", "ray": "2.60.0"},
    "hardware": {"cpus": 2, "gpu": "none", "host": {"memory_bytes": 25_000_000_000}},
    "data": [{"uri": "s3://bucket/train", "fingerprint": "ab12cd34", "records": 1437}],
    "started_at": "2026-01-02T03:04:05Z",
}
RESULTS = {
    "status": "finished",
    "steps": 100,
    "epochs": 10,
    "rows": [
        {
            "features": "trained encoder",
            "knn_top1_percent": {"20": 93.06, "10": 94.17},
            "linear_top1_percent": 96.39,
        },
        {
            "features": "random encoder",
            "knn_top1_percent": {"20": 78.33, "10": 80.56},
            "linear_top1_percent": 88.61,
        },
        {"features": "raw pixels", "knn_top1_percent": {"10": 97.22}, "linear_top1_percent": None},
    ],
    "images_per_s": 812.4,
    "data_wait_share": 0.048,
    "bound": {"stage": "model", "data_wait_share": 0.048, "text": "data wait 5 %: bound by the model"},
    "wall_s": 274.3,
    "startup_s": {"ray": 6.1, "first window": 2.25},
    "quarantined": {"count": 1, "share": 0.0007},
    "resumed_from_steps": [50],
}


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    """An empty run folder."""
    return RunFolder(tmp_path / "digits-synby-3fa9c1d2")


@pytest.fixture
def finished(run_folder: RunFolder) -> RunFolder:
    """The folder of a finished run, with every file."""
    run_folder.write_finished()
    return run_folder
