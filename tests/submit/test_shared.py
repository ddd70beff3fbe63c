"""What trials share: one list of each source for all of them, and baselines that are measured once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from syn2co_ray.evaluate import protocols
from syn2co_ray.evaluate.known_rows import row_name
from syn2co_ray.evaluate.protocols import PIXELS, RANDOM, Evaluation
from syn2co_ray.methods import build_method
from syn2co_ray.storage import list_files
from syn2co_ray.submit.prepare import PreparedRun, prepare_run
from syn2co_ray.submit.shared import shared_by_trials
from tests.train.local_run import tiny_job

FEWER = "method.negatives={hardest: 8, mixup: 4}"


def trial(folder: Path, *overrides: str) -> PreparedRun:
    job = tiny_job(folder, f"storage={folder}/look-1234/trials", *overrides)
    return prepare_run(job, lambda text: None, shared_by_trials(job))


def test_the_shared_folder_lies_beside_the_trials(tmp_path):
    job = tiny_job(tmp_path, f"storage={tmp_path}/look-1234/trials")
    assert shared_by_trials(job).path == f"{tmp_path}/look-1234/shared"
    job = tiny_job(tmp_path, "storage=s3://bucket/runs/look-1234/trials/")
    assert shared_by_trials(job).uri == "s3://bucket/runs/look-1234/shared"


def test_a_trial_that_starts_later_does_not_see_files_that_were_added(tmp_path):
    first = trial(tmp_path)
    (file, *_) = (tmp_path / "digits/train").glob("*.parquet")
    shutil.copy(file, tmp_path / "digits/train/added.parquet")
    (tmp_path / "digits/train/manifest.json").unlink(missing_ok=True)
    later = trial(tmp_path, FEWER)
    assert later.run.store.path != first.run.store.path
    assert later.plan.records == first.plan.records
    alone = prepare_run(tiny_job(tmp_path), lambda text: None)
    assert alone.plan.records[0] > first.plan.records[0]


def test_a_source_is_listed_once_and_keeps_each_trials_own_share_and_origin(tmp_path):
    told: list[str] = []
    half = [f"data.train=[{{uri: {tmp_path}/digits/train, share: 0.5, origin: generated}},"
            f" {{uri: {tmp_path}/digits/eval, share: 0.5}}]"]  # fmt: skip
    for overrides in ([], half, [FEWER]):
        job = tiny_job(tmp_path, f"storage={tmp_path}/look-1234/trials", *overrides)
        found = prepare_run(job, told.append, shared_by_trials(job)).stream.indexes
        assert [index.source.share for index in found] == [source.share for source in job.data.train]
        assert [index.source.origin for index in found] == [source.origin for source in job.data.train]
    assert sum(line.startswith("indexed") for line in told) == 2  # training images, evaluation images


class OneRank:
    """A run of one process."""

    rank, world_size, device = 0, 1, torch.device("cpu")

    def gathered(self, value):
        return [value]

    collected = gathered


@pytest.fixture
def embedded(monkeypatch) -> list[int]:
    """Images whose raw pixels were taken."""
    counts: list[int] = []
    original = protocols.raw_pixels
    monkeypatch.setattr(
        protocols, "raw_pixels", lambda images: (counts.append(len(images)), original(images))[1]
    )
    return counts


def rows_of(run: PreparedRun, *, shared: bool = True) -> list[dict]:
    sets = run.evaluation if shared else replace(run.evaluation, shared=None)
    job = run.job
    method = build_method(job.method, job.augment.image_size, seed=99)
    return Evaluation(job, sets.bank, sets.queries, sets.shared).after_training(method, OneRank())


def test_baselines_are_measured_by_the_first_trial_and_are_the_same_as_measured_again(tmp_path, embedded):
    first = rows_of(trial(tmp_path))
    assert [row["features"] for row in first] == ["trained encoder", "random encoder", "raw pixels"]
    assert sum(embedded) == 1797
    other = trial(tmp_path, FEWER)
    shared, alone = rows_of(other), rows_of(other, shared=False)
    assert shared == alone
    assert sum(embedded) == 2 * 1797  # by the one that does not share
    assert len(list_files(other.evaluation.shared.child("baselines"))) == 2


def test_another_network_or_seed_is_another_random_encoder_and_the_same_pixels(tmp_path):
    def names(*overrides: str) -> tuple[str, str]:
        run = trial(tmp_path, *overrides)
        bank, queries = run.evaluation.bank, run.evaluation.queries
        return (
            row_name(run.job, bank, queries, RANDOM, untrained=True),
            row_name(run.job, bank, queries, PIXELS, untrained=False),
        )

    random, pixels = names()
    assert names(FEWER, "train.epochs=3") == (random, pixels)
    deeper = names("method.backbone_options={embed_dim: 32, depth: 3, num_heads: 2}")
    assert deeper[0] != random
    assert deeper[1] == pixels
    assert names("seed=4")[0] != random
    assert names("evaluate.knn.neighbours=[7]")[1] != pixels
