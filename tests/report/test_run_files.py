"""Reading a run folder: resumed runs, runs under way, damaged files."""

from __future__ import annotations

import json
import math

import pytest

from syn2co_ray.report.run_files import load_run_files
from syn2co_ray.spec.errors import StorageError
from syn2co_ray.storage.run_layout import steps_file


def test_finished_run_every_file_is_read(finished):
    run = load_run_files(finished.store)
    assert run.missing == []
    assert run.unreadable == []
    assert run.spec["name"] == "digits-synby"
    assert run.provenance.data[0].records == 1437
    assert [record.step for record in run.steps] == list(range(100))
    assert [(record.step, record.knn[10]) for record in run.evals] == [(50, 75.0), (100, 80.0)]
    assert run.results.rows[0].knn_top1_percent == {10: 94.17, 20: 93.06}
    assert run.quarantine[0].key == "train/07#3"


def test_resumed_run_part_with_larger_first_step_wins(run_folder):
    run_folder.write_steps(0, 29, images_per_s=1.0)
    run_folder.write_steps(20, 24, images_per_s=2.0)
    run_folder.write_steps(22, 39, images_per_s=3.0)
    speeds = {record.step: record.images_per_s for record in load_run_files(run_folder.store).steps}
    assert list(speeds) == list(range(40))
    assert {step for step, speed in speeds.items() if speed == 1.0} == set(range(20))
    assert {step for step, speed in speeds.items() if speed == 2.0} == {20, 21}
    assert {step for step, speed in speeds.items() if speed == 3.0} == set(range(22, 40))


def test_parts_are_ordered_by_number_not_by_digits(run_folder):
    run_folder.write_steps(9, 11, loss=1.0)
    run_folder.write_steps(10, 11, loss=2.0)
    assert [record.loss for record in load_run_files(run_folder.store).steps] == [1.0, 2.0, 2.0]


def test_run_under_way_absent_files_are_named(run_folder):
    run_folder.write("spec.yaml", "name: x\n")
    run = load_run_files(run_folder.store)
    assert set(run.missing) == {
        "provenance.json",
        "results.json",
        "quarantine.jsonl",
        "views.png",
        "metrics/steps-*",
        "metrics/eval-*",
    }
    assert (run.results, run.steps, run.evals) == (None, [], [])


@pytest.mark.parametrize("loss", [math.nan, None])
def test_step_without_finite_loss_is_kept(run_folder, loss):
    run_folder.write_steps(0, 0, loss=loss, skipped=True)
    (step,) = load_run_files(run_folder.store).steps
    assert step.skipped
    assert step.loss is None or math.isnan(step.loss)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("spec.yaml", "a: [1", "spec.yaml: not YAML"),
        ("spec.yaml", "- a\n", "spec.yaml: list instead of a mapping"),
        ("results.json", '{"status": "fin', "results.json: Invalid JSON"),
        ("results.json", {"status": "finished", "rows": 3}, "results.json: rows: Input should be"),
        ("provenance.json", "[]", "provenance.json: Input should be an object"),
        ("views.png", b"\xff\xd8\xff", "views.png: not a PNG image"),
        (
            "quarantine.jsonl",
            '{"key": "a"}\n{"reason": "b"}\n',
            "quarantine.jsonl, line 2: key: Field required",
        ),
        ("metrics/eval-000000050.json", "", "metrics/eval-000000050.json: Invalid JSON"),
    ],
)
def test_damaged_file_is_named_and_the_rest_is_read(finished, name, content, problem):
    finished.write(name, content)
    run = load_run_files(finished.store)
    assert len(run.unreadable) == 1
    assert run.unreadable[0].startswith(problem)
    assert len(run.steps) == 100


def test_damaged_line_of_metrics_is_named_and_the_others_are_read(run_folder):
    good = json.dumps({"step": 0, "loss": 1.0})
    run_folder.write(steps_file(0), f'{good}\n{{"step": 1, "lo\n\n{good.replace("0", "2", 1)}\n')
    run = load_run_files(run_folder.store)
    assert [record.step for record in run.steps] == [0, 2]
    assert len(run.unreadable) == 1
    assert run.unreadable[0].startswith("metrics/steps-000000000.jsonl, line 2: Invalid JSON")


def test_folder_that_is_a_file_is_refused(run_folder):
    run_folder.write("metrics", "no folder")
    with pytest.raises(StorageError):
        load_run_files(run_folder.store)
