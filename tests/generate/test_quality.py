"""Figures of a data set beside real images, and the encoder they come from."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file

from syn2co_ray.data.index import build_index
from syn2co_ray.data.prepare import run_prepare
from syn2co_ray.generate.embedding_gate import NearestReal, real_features
from syn2co_ray.generate.encoder import Encoder, decoded_images
from syn2co_ray.generate.quality import distances, measure_quality, precision_and_recall
from syn2co_ray.spec.data import DigitsStep
from syn2co_ray.spec.errors import SpecError, StorageError
from syn2co_ray.spec.generate import EmbeddingGateSpec, EncoderSpec, QualitySpec
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec
from syn2co_ray.submit.generate import run_generate

from .conftest import MakeJob

STORE = ObjectStoreSpec()
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}


@pytest.fixture
def encoder(tmp_path: Path) -> dict[str, object]:
    """Weights as a checkpoint of ours has them."""
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT)
    weights = {f"encoder.{name}": tensor for name, tensor in network.state_dict().items()}
    save_file({**weights, "projector.weight": torch.zeros(2)}, tmp_path / "method.safetensors")
    return {
        "backbone": "vit_tiny_patch16_224",
        "weights": str(tmp_path / "method.safetensors"),
        "image_size": 16,
        "backbone_options": VIT,
    }


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    run_prepare([DigitsStep(dataset="digits", into=str(tmp_path / "digits"))], STORE, lambda text: None)
    return tmp_path / "digits"


def test_distances_grow_with_the_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    real, alike, other = (torch.randn(300, 8, generator=generator) for _ in range(3))
    same, near, far = distances(real, real), distances(real, alike), distances(real, other + 2)
    assert abs(same["fid"]) < 1e-6
    assert same["fid"] < near["fid"] < far["fid"]
    assert near["kid"] < far["kid"]
    # Of two Gaussians with one covariance: |difference of means|^2 = 8 * 2^2.
    assert far["fid"] == pytest.approx(32, rel=0.2)


def test_precision_and_recall_tell_missing_kinds_from_strange_ones() -> None:
    generator = np.random.default_rng(0)
    one, two = generator.normal(0, 1, (200, 4)), generator.normal(20, 1, (200, 4))
    few = precision_and_recall(np.concatenate([one, two]), generator.normal(0, 1, (200, 4)))
    assert few["precision"] > 0.8
    assert 0.3 < few["recall"] < 0.55
    strange = precision_and_recall(one, np.concatenate([generator.normal(0, 1, (200, 4)), two]))
    assert 0.3 < strange["precision"] < 0.55
    assert strange["recall"] > 0.8


def test_a_data_set_is_measured_against_real_images(encoder: dict[str, object], digits: Path) -> None:
    spec = QualitySpec.model_validate(
        {"encoder": encoder, "real": {"uri": f"{digits}/eval"}, "images_max": 200}
    )
    figures = measure_quality(spec, f"{digits}/train", STORE, "cpu")
    assert (figures["real_images"], figures["generated_images"]) == (200, 200)
    assert figures["precision"] > 0.5
    assert figures["recall"] > 0.5
    again = measure_quality(spec, f"{digits}/train", STORE, "cpu")
    assert again == figures


@pytest.mark.ray
def test_figures_that_are_asked_for_later_are_measured_then_and_once(
    ray_cluster: Any, make_job: MakeJob, encoder: dict[str, object], digits: Path
) -> None:
    def run(**changes: Any) -> str:
        text = io.StringIO()
        job = make_job(images=12, images_per_shard=12, **changes)
        run_generate(job, Console(file=text, width=200))
        assert json.loads((Path(job.into) / "manifest.json").read_text()).get("quality") or not changes
        return text.getvalue()

    assert "quality: " not in run()
    quality = {"encoder": encoder, "real": {"uri": f"{digits}/eval"}, "images_max": 12}
    assert "quality: " in run(quality=quality)
    assert "quality: " not in run(quality=quality)
    assert "quality: " in run(quality=quality | {"images_max": 10})


def test_real_images_are_near_real_ones_and_noise_is_not(encoder: dict[str, object], digits: Path) -> None:
    gate = EmbeddingGateSpec.model_validate(
        {"encoder": encoder, "real": {"uri": f"{digits}/train"}, "similarity_min": 0.5}
    )
    real = real_features(gate, STORE, "cpu")
    assert real.shape == (1408, 32)
    nearest = NearestReal(gate, real, STORE, "cpu")
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    some = list(decoded_images(build_index(SourceSpec(uri=f"{digits}/train"), STORE), STORE, 3))
    assert nearest(some) == pytest.approx(np.ones(3), abs=1e-5)
    assert nearest([noise])[0] < 0.999


def test_an_encoder_that_cannot_be_used_says_why(encoder: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="mend backbone"):
        Encoder(EncoderSpec.model_validate(encoder | {"backbone": "vit_tny"}), STORE, "cpu")
    with pytest.raises(SpecError, match="mend backbone"):
        Encoder(EncoderSpec.model_validate(encoder | {"backbone_options": {**VIT, "depth": 2}}), STORE, "cpu")
    with pytest.raises(StorageError):
        Encoder(EncoderSpec.model_validate(encoder | {"weights": f"{tmp_path}/none.st"}), STORE, "cpu")
