"""Job files of `jobs/evaluate/`: each is valid and says where its figures come from; the twins run."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from syn2co_ray.evaluate.landmarks import read_ground_truth
from syn2co_ray.evaluate.layouts import LAYOUTS
from syn2co_ray.spec.evaluation import EvaluateJobSpec
from syn2co_ray.spec.export import ExportSpec
from syn2co_ray.spec.load import load_job
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.submit.evaluate import run_evaluate
from syn2co_ray.submit.export import run_export

FOLDER = Path(__file__).resolve().parents[1] / "jobs/evaluate"
PUBLISHED = {
    "deit_s_supervised": None,
    "dino_resnet50": 1237,
    "dino_vit_s16": 1007,
    "dino_vit_s8": 180,
    "moco_v2_resnet50": 1237,
    "moco_v3_resnet50": 1237,
    "moco_v3_vit_s": 1007,
    "resnet50_supervised": 1237,
}
"""Published weights -> images a second of a forward pass that the cost is estimated by (None: as ViT-S/16)."""
OURS = ("deit_s_all_protocols", "deit_s_landmarks", "deit_s_robustness", "deit_s_transfer")
EXPORTS = ("export_deit_s", "export_digits_laptop", "export_resnet50")
HERE = (*PUBLISHED, *OURS, *EXPORTS, "digits_laptop")
"""Files that this module knows; others of the folder have tests of their own, but all are valid."""
IMAGES = 1_281_167 + 50_000


def header(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def test_no_file_of_those_is_missing():
    assert len(HERE) == 16
    assert set(HERE) <= {path.stem for path in FOLDER.glob("*.yaml")}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_is_valid_and_called_as_its_job(path):
    assert load_job(path).name == path.stem.replace("_", "-")


@pytest.mark.parametrize("name", HERE)
def test_header_says_source_figure_time_and_command(name):
    text = header(name)
    for words in ("Source", "Expected", "Cost|Time", "Run"):
        assert len(re.findall(rf"^# (?:{words}): ", text, re.MULTILINE)) == 1, words
    assert f"# Run: syn2co run jobs/evaluate/{name}.yaml" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_are_files_of_a_known_layout_and_their_cost_is_images_by_throughput(name):
    job = load_job(FOLDER / f"{name}.yaml")
    assert isinstance(job, EvaluateJobSpec)
    assert job.weights.file is not None
    assert job.weights.file.startswith("s3://my-bucket/weights/")
    assert (
        job.weights.encoder == "online"
    )  # each file holds one encoder, or is published with its trained one
    assert not job.baselines
    said = re.search(r"about ([\d.]+) GPU-hours", header(name))
    assert said is not None
    assert float(said[1]) == pytest.approx(IMAGES / (PUBLISHED[name] or 1007) / 3600, abs=0.06)


def test_the_layouts_of_the_published_files_are_in_the_table():
    published = {layout.published_by for layout in LAYOUTS}
    assert {
        "plain state dict, timm, torchvision's ResNets",
        "MoCo, MoCo v2, SynCo",
        "MoCo v3",
        "DINO",
    } <= published


def test_all_protocols_but_those_of_other_files_are_asked_for_in_one_file():
    job = load_job(FOLDER / "deit_s_all_protocols.yaml")
    assert isinstance(job, EvaluateJobSpec)
    others = {
        "linear_augmented": "linear_imagenet_deit_s",
        "landmarks": "deit_s_landmarks",
        "detection": "detection_coco_vit",
    }
    for protocol, name in others.items():
        assert getattr(job, protocol) is None, protocol
        assert protocol in header("deit_s_all_protocols"), protocol
        assert getattr(load_job(FOLDER / f"{name}.yaml"), protocol) is not None, protocol
    for protocol in ("knn", "linear", "few_shot", "label_shares", "fine_tune", "robustness", "statistics"):
        assert getattr(job, protocol) is not None, protocol
    assert job.retrieval
    assert job.video_segmentation is not None
    assert job.baselines


def test_exports_are_exports():
    for name in EXPORTS:
        assert isinstance(load_job(FOLDER / f"{name}.yaml"), ExportSpec)


def test_the_command_for_ground_truth_writes_what_is_read(tmp_path):
    """The published dictionary is a pickle with arrays; this one is made here."""
    import pickle

    truth = {
        "imlist": ["a", "b"],
        "qimlist": ["q"],
        "gnd": [{"bbx": np.array([1.0, 2.0, 30.5, 40.0]), "easy": np.array([0]), "hard": [1], "junk": []}],
    }
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth))
    command = next(line for line in header("deit_s_landmarks").splitlines() if "python -c" in line)
    words = shlex.split(command.removeprefix("#").strip())
    subprocess.run([sys.executable, *words[1:]], check=True, cwd=tmp_path)
    found = read_ground_truth(f"{tmp_path}/gnd_roxford5k.json", ObjectStoreSpec())
    assert found.gnd[0].bbx == (1.0, 2.0, 30.5, 40.0)
    assert (found.gnd[0].easy, found.gnd[0].hard, found.imlist) == ([0], [1], ["a", "b"])


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_the_export_twin_runs(tmp_path):
    job = load_job(FOLDER / "export_digits_laptop.yaml", [f"storage={tmp_path}"])
    assert isinstance(job, ExportSpec)
    found = run_export(job, quiet())
    assert set(found["forms"]) == {"timm", "torch_export"}
    assert found["forms"]["timm"]["difference_max"] == 0.0


@pytest.mark.slow
def test_the_evaluation_twin_runs_what_its_header_says(tmp_path):
    into = [f"storage={tmp_path}", f"data.prepare.0.into={tmp_path}/digits"]
    into += [f"data.eval.uri={tmp_path}/digits/eval", f"data.eval_bank.uri={tmp_path}/digits/train"]
    job = load_job(FOLDER / "digits_laptop.yaml", [*into, "fine_tune.epochs=1", "linear.epochs=5"])
    assert isinstance(job, EvaluateJobSpec)
    found = run_evaluate(job, quiet())
    rows = {row["features"]: row for row in found["rows"]}
    assert set(rows) == {"random encoder", "raw pixels"}
    assert (
        rows["raw pixels"]["knn_top1_percent"]["10"] > rows["random encoder"]["knn_top1_percent"]["10"] > 30
    )
    for protocol in ("few_shot", "label_shares", "retrieval"):
        assert protocol in rows["raw pixels"]
    assert "fine_tune" in rows["random encoder"]
    assert {"robustness", "statistics"} <= found.keys()
    assert "Robustness" in next(tmp_path.glob("digits-laptop-*/report.html")).read_text()
    json.dumps(found)
