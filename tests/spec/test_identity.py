"""The resolved spec and its hash."""

from __future__ import annotations

import json

import pytest

from syn2co_ray.spec.identity import hash_but_seed, json_schema, resolved_yaml, run_name, spec_hash
from syn2co_ray.spec.job import JOB_KINDS
from syn2co_ray.spec.load import load_text

from .test_load import MINIMAL


@pytest.mark.parametrize(
    "override",
    ["train.workers=4", "augment.actors={min: 1, max: 9}", "augment.placement=trainer", "storage=s3://b/runs", "train.checkpoint.keep=1",
     "object_store.endpoint_url=http://127.0.0.1:1", "data.reader_cpus_each=2"],
)  # fmt: skip
def test_how_a_job_is_executed_does_not_change_its_identity(override):
    assert spec_hash(load_text(MINIMAL, [override])) == spec_hash(load_text(MINIMAL))


@pytest.mark.parametrize(
    "override",
    ["seed=2", "train.epochs=11", "method.negatives.noise.sigma=0.02", "augment.flip_probability=0",
     "data.window_images=64", "train.precision=bf16", "data.train.0.uri=elsewhere"],
)  # fmt: skip
def test_what_is_computed_does(override):
    assert spec_hash(load_text(MINIMAL, [override])) != spec_hash(load_text(MINIMAL))


def test_repeats_differ_in_seed_and_name_alone():
    first = hash_but_seed(load_text(MINIMAL))
    assert hash_but_seed(load_text(MINIMAL, ["seed=2", "name=again", "storage=s3://b/runs"])) == first
    assert hash_but_seed(load_text(MINIMAL, ["train.epochs=11"])) != first


def test_resolved_yaml_is_a_job_file_of_the_same_run():
    job = load_text(MINIMAL)
    again = load_text(resolved_yaml(job))
    assert again == job
    assert run_name(again) == run_name(job) == f"tiny-{spec_hash(job)[:8]}"


def test_spelling_out_a_default_is_the_same_run():
    assert spec_hash(load_text(MINIMAL, ["method.temperature=0.2"])) == spec_hash(load_text(MINIMAL))


def test_json_schema_knows_every_section_short_forms_and_help():
    schema = json_schema()
    kinds = _schemas_by_kind(schema)
    training, generation = kinds["pretrain"], kinds["generate"]
    assert {"data", "augment", "method", "train", "evaluate"} <= set(training["properties"])
    assert {"pipeline", "prompts", "gate", "images"} <= set(generation["properties"])
    assert set(kinds) == set(JOB_KINDS)
    assert set(_schemas_by_kind(schema["$defs"]["Step"])) == set(kinds) - {"pipeline", "search"}
    assert kinds["pipeline"]["properties"]["steps"]["items"] == {"$ref": "#/$defs/Step"}
    text = json.dumps(schema)
    assert "Images in one optimizer step, over all workers." in text
    workers = schema["$defs"]["TrainSpec"]["properties"]["workers"]
    assert {"type": "integer"} in workers["anyOf"]
    assert training["additionalProperties"] is generation["additionalProperties"] is False


def _schemas_by_kind(schema):
    found = {}
    while "if" in schema:
        found[schema["if"]["properties"]["kind"]["const"]] = schema["then"]
        schema = schema["else"]
    return {**found, "pretrain": schema}
