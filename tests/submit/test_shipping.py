from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import syn2co_ray
from syn2co_ray.spec.errors import ClusterError
from syn2co_ray.spec.identity import resolved, resolved_yaml, spec_hash
from syn2co_ray.spec.load import load_job, load_text
from syn2co_ray.submit.shipping import (
    ENDED,
    entrypoint,
    pinned_libraries,
    runtime_env,
    with_absolute_paths,
)
from tests.train.local_run import tiny_job

OF_IMAGES = ("annotations", "images", "image_set", "mask_folder")
JOBS = Path(__file__).resolve().parents[2] / "jobs"


def test_relative_paths_of_a_pipeline_become_absolute_and_shipped_models_and_buckets_stay(
    monkeypatch, tmp_path
):
    job = load_job(JOBS / "quickstart.yaml", ["steps.0.pipeline.source=package:digits_ddpm"])
    monkeypatch.chdir(tmp_path)
    sent, changed = with_absolute_paths(job)
    text = resolved_yaml(sent)
    assert f"into: {tmp_path}/runs/data/generated-digits" in text
    assert f"storage: {tmp_path}/runs" in text
    assert "package:digits_ddpm" in text
    assert {"steps.1.storage", "steps.0.into", "steps.1.data.train.0.uri"} <= set(changed)
    assert resolved_yaml(load_text(text)) == text


def test_files_that_an_evaluation_names_become_absolute_and_names_below_a_folder_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    detection = [f"detection.{split}.{key}=data/{split}" for split in ("train", "eval") for key in OF_IMAGES]
    job = load_text(
        """
        kind: evaluate
        name: named
        storage: s3://b/runs
        weights: {file: w/model.safetensors, backbone: vit_tiny_patch16_224}
        data: {eval: {uri: s3://b/eval}, eval_bank: {uri: s3://b/bank}}
        landmarks: {images: {uri: photos}, ground_truth: truth/gnd.json}
        video_segmentation: {uri: davis, image_set: ImageSets/2017/val.txt}
        """,
        detection,
    )
    values = resolved(with_absolute_paths(job)[0])
    assert values["weights"]["file"] == f"{tmp_path}/w/model.safetensors"
    assert values["landmarks"]["ground_truth"] == f"{tmp_path}/truth/gnd.json"
    for split in ("train", "eval"):
        for key in OF_IMAGES:
            assert values["detection"][split][key] == f"{tmp_path}/data/{split}"
    assert values["video_segmentation"]["uri"] == f"{tmp_path}/davis"
    assert values["video_segmentation"]["image_set"] == "ImageSets/2017/val.txt"


def test_absolute_and_remote_places_leave_a_job_as_it_is(tmp_path):
    job = tiny_job(tmp_path, "storage=s3://bucket/runs")
    sent, changed = with_absolute_paths(job)
    assert changed == []
    assert spec_hash(sent) == spec_hash(job)


def test_a_hub_name_is_no_path_and_a_folder_of_that_name_is_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    job = load_job(
        JOBS / "quickstart.yaml",
        ["steps.0.pipeline.source=some/model", f"steps.0.pipeline.revision='{'0' * 40}'"],
    )
    assert "steps.0.pipeline.source" not in with_absolute_paths(job)[1]
    (tmp_path / "some/model").mkdir(parents=True)
    assert "steps.0.pipeline.source" in with_absolute_paths(job)[1]


def test_a_stopped_job_has_time_for_its_checkpoint(tmp_path):
    environment = runtime_env(tmp_path, stop_grace_s=600)
    assert environment["env_vars"] == {"RAY_JOB_STOP_SIGNAL": "SIGTERM", "RAY_JOB_STOP_WAIT_TIME_S": "600"}
    assert environment["working_dir"] == str(tmp_path)
    assert "py_modules" not in environment
    assert "pip" not in environment


def test_the_working_tree_and_the_libraries_are_sent_when_asked(tmp_path):
    environment = runtime_env(tmp_path, stop_grace_s=10, working_tree=True, pip=["timm==1.0.20"])
    assert environment["py_modules"] == [str(Path(syn2co_ray.__file__).parent)]
    assert environment["pip"]["packages"] == ["timm==1.0.20"]


def test_libraries_are_pinned_without_builds_and_ray():
    installed = {"torch": "2.15.0+cpu", "timm": "1.0.20"}
    wanted = [Requirement(line) for line in ("ray[data]>=2.60", "torch>=2.11", "timm>=1.0")]
    assert pinned_libraries(wanted, installed.__getitem__) == ["torch==2.15.0", "timm==1.0.20"]


def test_libraries_that_are_not_installed_here_cannot_be_pinned():
    def nothing(name):
        raise PackageNotFoundError(name)

    with pytest.raises(
        ClusterError, match="faiss-cpu is not installed here.*next: pip install 'faiss-cpu>=1.9'"
    ):
        pinned_libraries([Requirement('faiss-cpu>=1.9; extra == "embed"')], nothing)
    with pytest.raises(ClusterError, match="syn2co_ray is not installed here"):
        pinned_libraries([])


@pytest.mark.parametrize("signals", ["", "kill -TERM $$; kill -INT $$; "])
def test_the_entrypoint_leaves_the_exit_code_in_the_log_also_when_it_is_signalled(signals):
    trap, run = entrypoint().split("; ", 1)
    _, after = run.split("; ", 1)
    command = f"{trap}; {signals}sh -c 'exit 130'; {after}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stdout == f"{ENDED}130\n"
