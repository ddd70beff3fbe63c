"""Checkpoints as files: damaged and half-written ones, and which are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from syn2co_ray.spec.errors import CheckpointError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import Store, open_store
from syn2co_ray.train.checkpoint_files import (
    FILES,
    MANIFEST,
    complete_steps,
    newest_whole,
    publish_checkpoint,
    read_checkpoint,
)


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"), ObjectStoreSpec())


def publish(run: Store, step: int, keep: int = 3) -> None:
    files = dict.fromkeys(FILES, b"tensors") | {"state.json": json.dumps({"spec_hash": "s"}).encode()}
    publish_checkpoint(run, step, files, keep)


def folder(tmp_path: Path, step: int) -> Path:
    return tmp_path / f"run/checkpoints/step-{step:09d}"


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"state.json": 3}', '{"state.json": {}}'])
def test_a_damaged_manifest_costs_its_checkpoint_alone(run: Store, tmp_path: Path, text: str) -> None:
    publish(run, 10)
    publish(run, 20)
    (folder(tmp_path, 20) / MANIFEST).write_text(text)
    step, _, rejected = newest_whole(run, "s")
    assert step == 10
    assert len(rejected) == 1
    with pytest.raises(CheckpointError, match="MANIFEST.json is damaged; next: an older one is used"):
        read_checkpoint(run, 20)


def test_damaged_later_checkpoints_push_out_no_good_one(run: Store, tmp_path: Path) -> None:
    """A run whose newest checkpoint is damaged begins before it, and publishes earlier steps."""
    publish(run, 900, keep=1)
    (folder(tmp_path, 900) / "method.safetensors").write_bytes(b"other")
    for step in (100, 200):
        publish(run, step, keep=1)
        assert newest_whole(run, "s")[0] == step
    assert complete_steps(run) == [200]


def test_rests_of_writers_that_were_stopped_do_not_pile_up(run: Store, tmp_path: Path) -> None:
    for step in (10, 20, 30):
        publish(run, step)
        (folder(tmp_path, step) / MANIFEST).unlink()
    publish(run, 40)
    publish(run, 50)
    left = {path.parent.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert left == {folder(tmp_path, step).name for step in (40, 50)}
