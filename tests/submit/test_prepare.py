"""What is found out before any worker starts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syn2co_ray.spec.errors import DataError, SpecError, StorageError
from syn2co_ray.submit.sheet import first_views
from tests.train.local_run import prepared


def without_labels(folder: Path, part: str) -> str:
    """A copy of a part of the digits that has no labels; its path."""
    prepared(folder)
    target = folder / f"{part}-unlabelled"
    target.mkdir()
    for path in (folder / "digits" / part).glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["label"]), target / path.name)
    return str(target)


def test_run_folder_holds_spec_provenance_and_index_before_training(tmp_path):
    run = prepared(tmp_path)
    folder = Path(run.run.store.path)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["data"][0]["records"] == run.plan.records[0] > 1400
    # The k-NN bank is the training set here; the evaluation images come last.
    bank, held_out = provenance["evaluated_on"]
    assert bank == provenance["data"][0]
    assert (held_out["uri"], held_out["records"]) == (run.job.data.eval.uri, 389)
    assert provenance["libraries"]["torch"]
    assert (folder / "spec.yaml").read_text().startswith("kind: pretrain")
    assert run.plan.steps_per_epoch == 5
    assert run.plan.total_windows == 2 * 4


def test_eval_set_without_labels_is_refused(tmp_path):
    uri = without_labels(tmp_path, "eval")
    with pytest.raises(
        DataError,
        match=r"data.eval: .*has no label.*name the label column; a training .* may leave data.eval out",
    ):
        prepared(tmp_path, f"data.eval.uri={uri}")


def test_unlabelled_training_images_cannot_be_the_knn_bank(tmp_path):
    uri = without_labels(tmp_path, "train")
    with pytest.raises(DataError, match=r"data.train \(as the k-NN bank\): .*has no label"):
        prepared(tmp_path, f"data.train.0.uri={uri}")


def test_unlabelled_images_train_without_evaluation(tmp_path):
    uri = without_labels(tmp_path, "train")
    assert prepared(tmp_path, f"data.train.0.uri={uri}", "data.eval=null").evaluation is None


def test_fewer_images_than_a_step_are_refused(tmp_path):
    with pytest.raises(
        SpecError, match=r"train.images_per_step_global: 4096, but the sources hold 1408 images"
    ):
        prepared(tmp_path, "train.images_per_step_global=4096", "data.images_per_epoch=null")


def test_missing_source_says_where_and_what_next(tmp_path):
    with pytest.raises(StorageError, match=r"nowhere.*next"):
        prepared(tmp_path, f"data.train.0.uri={tmp_path}/nowhere")


def test_parquet_without_an_image_column_lists_the_columns_it_has(tmp_path):
    (tmp_path / "numbers").mkdir()
    pq.write_table(pa.table({"height": [1, 2], "width": [3, 4]}), tmp_path / "numbers/a.parquet")
    with pytest.raises(DataError, match=r"height.*width"):
        prepared(tmp_path, f"data.train.0.uri={tmp_path}/numbers")


def test_picture_of_the_first_records_is_a_png(tmp_path):
    assert (first_views(prepared(tmp_path)) or b"").startswith(b"\x89PNG")
