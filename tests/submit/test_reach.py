from __future__ import annotations

import json
from pathlib import Path

import pytest

from syn2co_ray.spec.errors import error_from_json
from syn2co_ray.spec.identity import resolved_yaml
from syn2co_ray.spec.load import load_job
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import list_files, open_store
from syn2co_ray.submit.reach import leave_mark, places_needed, reach_from_node, remove_mark, written_places
from tests.train.local_run import tiny_job

JOBS = Path(__file__).resolve().parents[2] / "jobs"
SOURCE = "data.train.0.uri={}"


def test_a_place_that_is_shared_is_written_read_and_left_clean(place, tmp_path):
    store = open_store(place, ObjectStoreSpec())
    text = resolved_yaml(tiny_job(tmp_path, f"storage={place}"))
    mark, errors = leave_mark(text)
    assert errors == []
    assert reach_from_node(text, mark) == []
    prepared = open_store(str(tmp_path / "digits"), ObjectStoreSpec())
    assert [[file.path for file in list_files(each)] for each in (store, prepared)] == [[mark], [mark]]
    remove_mark(text, mark)
    assert list_files(store, missing_ok=True) == list_files(prepared, missing_ok=True) == []


def test_a_node_that_does_not_see_what_the_head_wrote_says_so(tmp_path):
    text = resolved_yaml(tiny_job(tmp_path))
    errors = [json.loads(error) for error in reach_from_node(text, "a-mark-that-nobody-left")]
    assert {where for _, where, *_ in errors} == {str(tmp_path / "runs"), str(tmp_path / "digits")}
    for kind, _, got, allowed, _ in errors:
        assert kind == "StorageError"
        assert "does not see what the head has written" in got
        assert "a path that all nodes share" in allowed


@pytest.mark.parametrize(
    ("file", "places"),
    [
        ("digits_synby.yaml", {"runs", "runs/data/digits"}),
        ("evaluate/digits_laptop.yaml", {"runs", "runs/data/digits"}),
        ("evaluate/embed_digits.yaml", {"runs", "runs/data/digits"}),
    ],
)
def test_a_data_set_that_the_driver_prepares_must_be_where_all_nodes_see_it(
    file: str, places: set[str]
) -> None:
    assert {store.uri for store in written_places(load_job(JOBS / file))} == {
        str(Path(place).absolute()) for place in places
    }


def test_a_source_that_is_not_there_is_named(tmp_path):
    text = resolved_yaml(tiny_job(tmp_path, SOURCE.format(tmp_path / "nothing")))
    mark, _ = leave_mark(text)
    (error,) = reach_from_node(text, mark)
    assert json.loads(error)[1] == str(tmp_path / "nothing")


def test_storage_that_cannot_be_written_is_an_error_of_the_head(tmp_path):
    (tmp_path / "file").write_text("")
    _, errors = leave_mark(resolved_yaml(tiny_job(tmp_path, f"storage={tmp_path / 'file'}/runs")))
    assert json.loads(errors[0])[0] == "StorageError"


def test_a_node_that_lacks_what_the_job_file_asks_for_says_so(monkeypatch, tmp_path):
    text = resolved_yaml(tiny_job(tmp_path, "track={tensorboard: true}"))
    monkeypatch.setattr("syn2co_ray.spec.rules.track.find_spec", lambda library: None)
    for errors in (leave_mark(text)[1], reach_from_node(text, "mark")):
        (error,) = [error_from_json(error) for error in errors]
        assert error.fault.where == "track.tensorboard"


def test_sources_that_the_job_makes_need_not_be_there(tmp_path):
    assert list(places_needed(tiny_job(tmp_path))) == []
    (uri, _) = next(iter(places_needed(tiny_job(tmp_path, SOURCE.format("s3://bucket/x")))))
    assert uri == "s3://bucket/x"
    assert list(places_needed(load_job(JOBS / "quickstart.yaml"))) == []


def test_a_pipeline_writes_to_the_places_of_all_its_steps():
    uris = [store.uri.rpartition("/runs")[2] for store in written_places(load_job(JOBS / "quickstart.yaml"))]
    assert sorted(uris) == ["", "/data/digits", "/data/generated-digits"]


def test_all_that_an_evaluation_reads_must_be_there():
    uris = {uri for uri, _ in places_needed(load_job(JOBS / "evaluate/detection_bccd_laptop.yaml"))}
    assert uris == {
        "runs/cifar10-laptop",
        "data/bccd/Annotations",
        "data/bccd/JPEGImages",
        "data/bccd/ImageSets/Main/train.txt",
        "data/bccd/ImageSets/Main/test.txt",
    }
