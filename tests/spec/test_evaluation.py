"""An evaluation's spec: something is measured, on two sets."""

from __future__ import annotations

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.identity import spec_hash
from syn2co_ray.spec.load import load_text

from .test_load import MINIMAL

EVALUATE = """\
kind: evaluate
name: tiny
storage: runs
weights: {run: runs/tiny-1234abcd}
data:
  eval: {uri: images/val}
  eval_bank: {uri: images/train}
"""


def faults(text: str, *overrides: str) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        load_text(text, overrides)
    return {fault.where: fault.render("job.yaml") for fault in caught.value.faults}


def test_defaults_are_the_published_protocol_and_batches_do_not_name_the_folder():
    job = load_text(EVALUATE)
    assert job.knn.neighbours == (10, 20, 100, 200)
    assert job.linear is not None
    assert job.robustness is None
    assert spec_hash(job) == spec_hash(load_text(EVALUATE, ["images_per_batch=8", "storage=x"]))


def test_faults_come_at_once_with_their_lines():
    found = faults(
        EVALUATE,
        "knn=null",
        "linear=null",
        "data.eval_bank.uri=images/val/",
        "weights.step=0",
    )
    assert {"knn", "data.eval_bank", "weights.step"} == set(found)
    assert "at least one protocol" in found["knn"]
    assert "job.yaml:7: data.eval_bank" in found["data.eval_bank"]
    found = faults(EVALUATE, "robustness={corruptions: [fog], severities: [6]}", "few_shot.ways=1")
    assert {"robustness.corruptions.0", "robustness.severities.0", "few_shot.ways"} <= set(found)
    assert "knn.neighbours.1" in faults(EVALUATE, "knn.neighbours=[5, 0]")
    assert "robustness" in faults(EVALUATE, "knn=null", "linear=null", "robustness={}", "retrieval=true")
    assert "statistics.crop_scale" in faults(EVALUATE, "statistics.crop_scale=[0.5, 0.2]")


def test_a_trainings_rules_do_not_look_at_an_evaluations_data():
    assert "data.train" in faults(MINIMAL, "data.train=[]")
    assert load_text(EVALUATE).data.trained_on == []


def test_evaluation_and_export_are_steps_of_a_pipeline():
    lines = ["kind: pipeline", "name: both", "storage: elsewhere", "steps:"]
    for text in (EVALUATE, "kind: export\nname: out\nweights: {run: runs/tiny-1234abcd}\n"):
        first, *rest = [line for line in text.splitlines() if not line.startswith("storage")]
        lines += [f"  - {first}", *(f"    {line}" for line in rest)]
    evaluate, export = load_text("\n".join(lines)).steps
    assert (evaluate.kind, export.kind) == ("evaluate", "export")
    assert evaluate.storage == export.storage == "elsewhere"


@pytest.mark.parametrize(
    ("text", "override", "where"),
    [
        (MINIMAL, "evaluate.knn.neighbours=[5, 0]", "evaluate.knn.neighbours.1"),
        (MINIMAL, "evaluate.linear.learning_rates=[0.1, 0.0]", "evaluate.linear.learning_rates.1"),
        (EVALUATE, "knn.neighbours=[-5]", "knn.neighbours.0"),
        (EVALUATE, "linear.learning_rates=[-0.1]", "linear.learning_rates.0"),
        (EVALUATE, "few_shot.shots=[0]", "few_shot.shots.0"),
    ],
)
def test_counts_and_rates_that_cannot_be_are_one_fault(text, override, where):
    found = faults(text, override)
    assert list(found) == [where]
    assert "greater than" in found[where]
