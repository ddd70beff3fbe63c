"""Sections of an evaluation that train: faults at once, and the runs they stand for."""

from __future__ import annotations

import pytest

from syn2co_ray.spec.identity import run_name, spec_hash
from syn2co_ray.spec.load import load_text
from syn2co_ray.spec.method import BackboneSpec
from syn2co_ray.spec.probe_jobs import Probed, fine_tune_job, jobs_for_their_resources, linear_job
from syn2co_ray.spec.source import SourceSpec

from .test_evaluation import EVALUATE, faults

VIT = BackboneSpec(backbone="deit_small_patch16_224", drop_path_online=0.0)


def probed(images: int = 1000, storage: str = "runs/e/probes") -> Probed:
    return Probed("trained", VIT, 224, "0123" * 16, ("cat", "dog"), SourceSpec(uri="bank"), images, storage)


def test_faults_come_at_once():
    found = faults(
        EVALUATE,
        "linear_augmented={images_per_step: 500, workers: {min: 3, max: 2}, warmup_epochs: 9, epochs: 5}",
        "fine_tune={crop_scale: [0.5, 0.2], shares: [0.1, 0.1], workers: {min: 2, max: 2, gpus_each: 0.5}}",
    )
    assert {
        "linear_augmented.images_per_step",
        "linear_augmented.workers",
        "linear_augmented.warmup_epochs",
        "fine_tune.crop_scale",
        "fine_tune.shares",
        "fine_tune.workers.gpus_each",
    } <= set(found)
    assert "a multiple of linear_augmented.workers.min" in found["linear_augmented.images_per_step"]
    found = faults(EVALUATE, "linear_augmented={learning_rates: [1.0, 1.0], actors: {min: 2, max: 1}}")
    assert {"linear_augmented.learning_rates", "linear_augmented.actors"} == set(found)
    assert "fine_tune.layer_decay" in faults(EVALUATE, "fine_tune.layer_decay=1.5")


def test_a_training_probe_alone_is_something_that_is_measured():
    job = load_text(EVALUATE, ["knn=null", "linear=null", "linear_augmented={}"])
    assert job.linear_augmented.learning_rates == (0.5, 0.75, 1.0, 1.25)


def test_evaluations_from_before_keep_their_hash():
    # Of the version before these sections.
    assert spec_hash(load_text(EVALUATE)).startswith("62be2865899647dc")
    assert spec_hash(load_text(EVALUATE, ["fine_tune={}"])).startswith("a21989246ff0c35c")


def test_the_linear_run_is_mobys():
    run = linear_job(load_text(EVALUATE, ["linear_augmented={}"]), probed())
    optimizer = run.train.optimizer
    assert (optimizer.name, optimizer.learning_rate_base, optimizer.sgd_momentum) == ("sgd", 1.0, 0.9)
    assert (optimizer.images_per_step_of_base_rate, optimizer.warmup_epochs) == (512, 5.0)
    assert (optimizer.weight_decay, optimizer.gradient_clip_norm) == (0.0, None)
    assert (run.train.epochs, run.train.images_per_step_global) == (100, 512)
    assert run.augment.recipe == "supervised"
    assert run.augment.crop_scale == (0.08, 1.0)
    assert run.method.gradient_clip_norm == 5.0
    assert run.weights_file == "backbone-0123012301230123.safetensors"


@pytest.mark.parametrize(("images", "expected"), [(1000, 1024), (13, 256), (512, 512)])
def test_an_epoch_meets_every_image_in_whole_steps(images, expected):
    job = load_text(EVALUATE, ["fine_tune={}"])
    assert fine_tune_job(job, probed(images), 0.1).data.images_per_epoch == expected


def test_a_run_is_found_again_with_other_workers_and_elsewhere():
    def name(*words: str, **about: str) -> str:
        return run_name(fine_tune_job(load_text(EVALUATE, list(words)), probed(**about), 0.1))

    first = name("fine_tune={}")
    assert first.startswith("fine-tune-0.1-trained-")
    assert name("fine_tune={workers: 4, actors: 2, checkpoint_every_epochs: 5}", storage="s3://b/x") == first
    assert name("fine_tune={epochs: 49}") != first
    assert name("fine_tune={layer_decay: 0.7}") != first
    assert name("fine_tune={}", "seed=1") != first


def test_what_is_asked_of_a_cluster_is_known_before_the_weights_are():
    job = load_text(EVALUATE, ["linear_augmented={workers: 4}", "fine_tune={actors: 3}"])
    linear, fine_tune = jobs_for_their_resources(job)
    assert linear.train.workers.max == 4
    assert (linear.augment.placement, fine_tune.augment.placement) == ("trainer", "actors")
    assert jobs_for_their_resources(load_text(EVALUATE)) == []
