"""`kind: pipeline`: several jobs in one file."""

from __future__ import annotations

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.identity import resolved_yaml, spec_hash
from syn2co_ray.spec.job import steps_of
from syn2co_ray.spec.load import load_job, load_text

from .test_load import MINIMAL

GENERATE = """\
kind: generate
name: more
into: out
images: 10
pipeline: {source: ddpm}
"""


def indented(text: str) -> str:
    first, *others = text.strip().splitlines()
    return "\n".join([f"  - {first}", *(f"    {line}" for line in others)]) + "\n"


PIPELINE = "kind: pipeline\nname: both\nseed: 7\nstorage: shared-runs\nsteps:\n" + indented(GENERATE)


def test_steps_are_the_jobs_that_files_of_their_own_would_be():
    generate, train = steps_of(load_text(PIPELINE + indented(MINIMAL)))
    assert train == load_text(MINIMAL, ["seed=7", "storage=shared-runs"])  # what is given for all holds
    assert generate == load_text(GENERATE + "seed: 7\n")


def test_a_step_takes_over_a_file_that_lies_beside(tmp_path):
    (tmp_path / "train.yaml").write_text(MINIMAL)
    whole = tmp_path / "whole.yaml"
    whole.write_text(PIPELINE + "  - base: train.yaml\n    train: {epochs: 20}\n")
    _, train = steps_of(load_job(whole, ["steps.1.train.images_per_step_global=128"]))
    assert (train.name, train.train.epochs, train.train.images_per_step_global) == ("tiny", 20, 128)


def test_faults_of_all_steps_come_at_once_with_their_lines(tmp_path):
    (tmp_path / "train.yaml").write_text(MINIMAL.replace("epochs: 10", "epoch: 10"))
    whole = tmp_path / "whole.yaml"
    whole.write_text(PIPELINE.replace("images: 10", "images: 0") + "  - base: train.yaml\n")
    with pytest.raises(SpecError) as caught:
        load_job(whole)
    text = str(caught.value)
    assert f"{whole}:9: steps.0.images: got 0" in text
    assert f"{tmp_path / 'train.yaml'}:16: steps.1.train.epoch: unknown key" in text
    assert "steps.1.train.epochs: missing" in text
    assert "did you mean epochs?" in text


def test_a_key_of_a_step_written_for_the_whole_is_pointed_to_its_place():
    with pytest.raises(SpecError, match=r"train: unknown key; .* did you mean steps\.1\.train\?"):
        load_text(PIPELINE + indented(MINIMAL), ["train.epochs=3"])
    with pytest.raises(SpecError, match=r"images: unknown key; .* did you mean steps\.0\.images\?"):
        load_text(PIPELINE + indented(MINIMAL), ["images=3"])


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("kind: pipeline\nname: x\n", "steps", "missing"),
        ("kind: pipeline\nname: x\nsteps: []\n", "steps", "at least 1"),
        ("kind: pipeline\nname: x\nsteps: [{kind: generat}]\n", "steps.0.kind", "did you mean generate?"),
        ("kind: pipeline\nname: x\nsteps: [{kind: pipeline}]\n", "steps.0.kind", "pretrain | generate"),
        (PIPELINE + indented(GENERATE), "steps", "2 are called more"),
        (PIPELINE.replace("both", "both\nsteeps: 3"), "steeps", "did you mean steps?"),
    ],
)
def test_what_is_no_pipeline(text, where, words):
    with pytest.raises(SpecError) as caught:
        load_text(text)
    found = {fault.where: fault.render("job.yaml") for fault in caught.value.faults}
    assert words in found[where]


def test_resolved_pipeline_is_a_job_file_of_the_same_steps():
    job = load_text(PIPELINE + indented(MINIMAL))
    again = load_text(resolved_yaml(job))
    assert [spec_hash(step) for step in steps_of(again)] == [spec_hash(step) for step in steps_of(job)]


GENERATOR = """\
kind: train_generator
name: ddpm
seed: 0
storage: runs
data: {train: [{uri: images}]}
augment: {recipe: plain, image_size: 8}
method: {framework: ddpm, block_channels: [16, 32]}
train: {images_per_step_global: 8, epochs: 10}
into: pipeline
"""


@pytest.mark.parametrize(
    ("override", "where", "words"),
    [
        ("method.block_channels=[16, 30]", "method.block_channels", "multiples of 8"),
        ("method.block_channels=[16, 16, 16, 16, 16]", "augment.image_size", "cannot be halved 4 times"),
        ("method.attention_levels=[2]", "method.attention_levels", "levels from 0 to 1"),
        ("augment.recipe=byol", "augment.recipe", "plain"),
        ("data.eval={uri: x}", "data.eval", "only with kind pretrain"),
        ("evaluate={}", "evaluate", "unknown key"),
        ("method.backbone=x", "method.backbone", "unknown key"),
    ],
)
def test_faults_of_a_generator_training(override, where, words):
    load_text(GENERATOR)
    with pytest.raises(SpecError) as caught:
        load_text(GENERATOR, [override])
    found = {fault.where: fault.render("job.yaml") for fault in caught.value.faults}
    assert words in found[where]
