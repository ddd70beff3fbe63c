"""`kind: export` from a run's checkpoint to a folder that others load."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.spec.errors import CheckpointError
from syn2co_ray.spec.identity import run_name, spec_hash
from syn2co_ray.spec.load import load_text
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.weights import WeightsSpec
from syn2co_ray.submit.export import run_export
from syn2co_ray.submit.run import run_jobs

from ..train.local_run import local_loop, prepared


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    loop = local_loop(
        prepared(tmp_path_factory.mktemp("run"), "train.epochs=2", "train.checkpoint.every_epochs=1")
    )
    loop.run_to_end()
    row = {"features": "trained encoder", "knn_top1_percent": {"5": 81.25}, "linear_top1_percent": None}
    loop.run.write_json("results.json", {"status": "finished", "steps": 10, "rows": [row]})
    return loop


def export(run: str, into: Path, *overrides: str) -> Any:
    text = f"kind: export\nname: digits\nstorage: {into}\nweights: {{run: {run}}}\n"
    return load_text(text, overrides)


def test_an_export_has_its_forms_its_errors_and_a_card_with_the_runs_figures(
    trained: Any, tmp_path: Path
) -> None:
    job = export(trained.run.store.uri, tmp_path)
    results = run_export(job, Console(file=open(os.devnull, "w")))
    folder = tmp_path / run_name(job)
    assert {path.name for path in folder.iterdir()} == {
        *("spec.yaml", "provenance.json", "results.json", "README.md", "timm", "torch_export")
    }
    assert {path.name for path in (folder / "timm").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    assert json.loads((folder / "results.json").read_text()) == results
    assert all(about["error"] <= 1e-5 for about in results["forms"].values())
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["weights"]["digest"] == results["digest"]
    assert provenance["spec_hash"] == spec_hash(job)
    card = (folder / "README.md").read_text()
    assert "| trained encoder | 81.25 | not measured |" in card
    assert spec_hash(trained.job) in card
    assert "digits/train" in card
    program = torch.export.load(folder / "torch_export/model.pt2").module()
    images = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        expected = trained.trainer.method.features(images)
        assert torch.allclose(program(images), expected, atol=1e-5)


def test_figures_of_another_step_or_encoder_are_left_out(trained: Any, tmp_path: Path) -> None:
    quiet = Console(file=open(os.devnull, "w"))
    for overrides, why in (
        (["weights.step=5"], "the run's are of step 10, these weights of step 5"),
        (["weights.encoder=target"], "the run's are of the online encoder"),
    ):
        job = export(trained.run.store.uri, tmp_path, "formats=[timm]", *overrides)
        run_export(job, quiet)
        card = (tmp_path / run_name(job) / "README.md").read_text()
        assert f"None: {why}." in card
        assert "81.25" not in card


def test_the_command_shows_what_is_there_and_refuses_weights_that_moved_on(
    trained: Any, tmp_path: Path
) -> None:
    job = export(trained.run.store.uri, tmp_path, "formats=[timm]")
    quiet = Console(file=open(os.devnull, "w"))
    first = run_export(job, quiet)
    weights = tmp_path / run_name(job) / "timm/model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run_export(job, quiet) == first
    assert weights.stat().st_mtime_ns == before
    state = tmp_path / run_name(job) / "provenance.json"
    moved = json.loads(state.read_text())
    moved["weights"] |= {"digest": "0" * 64, "source": "step 5 of there"}
    state.write_text(json.dumps(moved))
    with pytest.raises(CheckpointError, match=r"made of step 5 of there.*say which in weights\.step"):
        run_export(job, quiet)


def test_run_jobs_exports_and_says_how_near_each_form_is(tmp_path: Path) -> None:
    text = (
        f"kind: export\nname: random\nstorage: {tmp_path}/out\nformats: [timm, torchvision]\n"
        "weights: {random_seed: 0, backbone: resnet18, image_size: 32}\n"
    )
    said = io.StringIO()
    run_jobs([load_text(text)], Console(file=said, width=200))
    assert "torchvision: 44.8 MB, largest difference 0" in said.getvalue()
    assert "exported: " in said.getvalue()


BARE = """
import sys
import numpy as np, onnxruntime, timm, torch, torchvision
from safetensors.torch import load_file
from importlib.util import find_spec
assert find_spec("syn2co_ray") is None
folder, images, backbone = sys.argv[1], np.load(sys.argv[2]), sys.argv[4]
seen, found = torch.from_numpy(images), {}
with torch.inference_mode():
    network = timm.create_model(f"local-dir:{folder}/timm", pretrained=True).eval()
    found["timm"] = network(seen).numpy()
    found["torch_export"] = torch.export.load(f"{folder}/torch_export/model.pt2").module()(seen).numpy()
    if backbone:
        network = torchvision.models.get_model(backbone)
        network.fc = torch.nn.Identity()
        network.load_state_dict(load_file(f"{folder}/torchvision/{backbone}.safetensors"))
        found["torchvision"] = network.eval()(seen).numpy()
session = onnxruntime.InferenceSession(f"{folder}/onnx/model.onnx")
found["onnx"] = session.run(["features"], {"images": images})[0]
np.savez(sys.argv[3], **found)
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with plain torch, torchvision, timm and onnxruntime."""
    bare = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", str(bare)], check=True)
    install = [str(bare / "bin/python"), "-m", "pip", "install", "-q"]
    if shutil.which("uv"):  # takes what it has fetched before
        install = ["uv", "pip", "install", "-q", "--python", str(bare / "bin/python")]
    packages = ["torch", "torchvision", "timm", "safetensors", "onnxruntime"]
    subprocess.run([*install, *packages], check=True, timeout=1800)
    return bare / "bin/python"


def read_elsewhere(python: Path, folder: Path, images: np.ndarray, place: Path, backbone: str = "") -> Any:
    """Features by form, from a process of that interpreter."""
    script = place / "bare.py"
    script.write_text(BARE)
    np.save(place / "images.npy", images)
    words = [script, folder, place / "images.npy", place / "features.npz", backbone]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, *words], check=True, env=environment, cwd=place, timeout=900)
    return np.load(place / "features.npz")


@pytest.mark.slow
def test_an_environment_without_this_package_gets_the_same_features(
    trained: Any, bare_python: Path, tmp_path: Path
) -> None:
    job = export(trained.run.store.uri, tmp_path, "formats=[timm, onnx, torch_export]")
    run_export(job, Console(file=open(os.devnull, "w")))
    images = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = trained.trainer.method.features(torch.from_numpy(images)).numpy()
    found = read_elsewhere(bare_python, tmp_path / run_name(job), images, tmp_path)
    assert set(found) == {"timm", "torch_export", "onnx"}
    for form in found:
        assert np.abs(found[form] - expected).max() <= 1e-5 * np.abs(expected).max(), form


@pytest.mark.slow
def test_torchvision_itself_gets_the_features_of_a_resnet_50(bare_python: Path, tmp_path: Path) -> None:
    """With statistics of batch norm that are not those of a new network."""
    source = load_backbone(
        WeightsSpec(random_seed=0, backbone="resnet50", image_size=64), ObjectStoreSpec()
    ).network
    generator = torch.Generator().manual_seed(1)
    source.train()(torch.randn(4, 3, 64, 64, generator=generator) * 2 + 0.5)
    save_file(source.eval().state_dict(), tmp_path / "weights.safetensors")
    text = (
        f"kind: export\nname: resnet\nstorage: {tmp_path}/out\n"
        "formats: [timm, torchvision, onnx, torch_export]\n"
        f"weights: {{file: {tmp_path}/weights.safetensors, backbone: resnet50, image_size: 64}}\n"
    )
    job = load_text(text)
    run_export(job, Console(file=open(os.devnull, "w")))
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = source(torch.from_numpy(images)).numpy()
    found = read_elsewhere(bare_python, tmp_path / "out" / run_name(job), images, tmp_path, "resnet50")
    assert set(found) == {"timm", "torchvision", "torch_export", "onnx"}
    assert np.abs(found["torchvision"] - expected).max() == 0.0
    for form in found:
        assert np.abs(found[form] - expected).max() <= 1e-5 * np.abs(expected).max(), form
