from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from syn2co_ray.spec.load import load_job
from syn2co_ray.submit import libraries
from syn2co_ray.submit.libraries import extras_of, needed_libraries
from tests.train.local_run import tiny_job

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
AZURE, TRACK = (
    {"azure-identity", "azure-storage-blob"},
    "track={mlflow: {experiment: digits}, tensorboard: true}",
)


@pytest.mark.parametrize(
    ("job", "overrides", "names"),
    [
        ("digits_synby.yaml", [], set()),
        ("digits_synby.yaml", [TRACK], {"mlflow-skinny", "tensorboard"}),
        ("digits_synby.yaml", ["storage=az://box/runs"], AZURE),
        ("quickstart.yaml", ["steps.0.into=az://box/digits"], AZURE),
        ("search/digits_negatives.yaml", [f"base.{TRACK}"], {"mlflow-skinny", "tensorboard"}),
        ("evaluate/digits_laptop.yaml", [], set()),
        ("evaluate/detection_bccd_laptop.yaml", [], {"pycocotools"}),
        ("evaluate/embed_digits.yaml", [], {"faiss-cpu"}),
        ("evaluate/embed_digits.yaml", ["near_duplicates=null", "neighbours=null"], set()),
    ],
)
def test_a_job_needs_the_libraries_of_the_extras_that_it_uses(job, overrides, names):
    assert extras_of(load_job(JOBS / job, overrides)) == names


def test_an_export_to_onnx_needs_its_three_libraries(tmp_path):
    text = (
        f"kind: export\nname: x\nstorage: {tmp_path}\n"
        "weights: {random_seed: 0, backbone: vit_tiny_patch16_224}\nformats: [timm, onnx]\n"
    )
    (tmp_path / "job.yaml").write_text(text)
    assert extras_of(load_job(tmp_path / "job.yaml")) == {"onnx", "onnxruntime", "onnxscript"}


def test_every_named_library_is_one_of_the_packages_extras(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {Requirement(line).name for lines in project["optional-dependencies"].values() for line in lines}
    tracked = tiny_job(tmp_path, "track={mlflow: {}, wandb: {project: p}, tensorboard: true}")
    assert {*libraries.AZURE, *libraries.ONNX, "pycocotools", "faiss-cpu", *extras_of(tracked)} <= extras


def test_what_is_needed_is_everybodys_and_the_extras_that_are_named():
    everybodys = {wanted.name for wanted in needed_libraries()}
    assert {"timm", "diffusers", "pyarrow", "torch", "ray"} <= everybodys
    assert {wanted.name for wanted in needed_libraries({"faiss-cpu"})} - everybodys == {"faiss-cpu"}
