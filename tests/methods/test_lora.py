"""LoRA: only its own weights learn and are kept, and what is saved changes what the pipeline makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from syn2co_ray.generate.pipeline import ImageMaker
from syn2co_ray.generate.slots import Conditions, Slot, content_id
from syn2co_ray.generate.weights import digest_of_all
from syn2co_ray.methods import build_method
from syn2co_ray.methods.lora import Lora
from syn2co_ray.methods.normalise import normalise
from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.generate import GenerateSpec
from syn2co_ray.spec.generator_method import LoraSpec
from tests.generate.tiny_pipelines import save_text_to_image, save_unconditional


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_to_image(tmp_path_factory.mktemp("sd") / "pipeline")


def make(pipeline: Path, image_size: int = 32, **changes: Any) -> Lora:
    fields = {"framework": "lora", "source": str(pipeline), "prompt": "a {name}", "classes": ["cat", "dog"]}
    method = build_method(LoraSpec.model_validate(fields | changes), image_size, 0)
    assert isinstance(method, Lora)
    return method


@pytest.fixture
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [normalise(torch.randint(0, 256, (6, 3, 32, 32), generator=generator, dtype=torch.uint8))]


LABELS = torch.tensor([0, 1, 0, 1, 0, 1])


def test_only_lora_weights_learn_and_are_kept(pipeline: Path, images: list[Tensor], step_at: Any) -> None:
    method = make(pipeline)
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert set(method.state_dict()) == trained
    frozen = {name: p.detach().clone() for name, p in method.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    first = method(images, step_at(), LABELS).loss.item()
    for _ in range(20):
        optimizer.zero_grad()
        method(images, step_at(), LABELS).loss.backward()
        optimizer.step()
    assert method(images, step_at(), LABELS).loss.item() < first
    assert all(torch.equal(frozen[name], p) for name, p in method.named_parameters() if name in frozen)
    other = make(pipeline)
    other.load_state_dict(method.state_dict())
    torch.testing.assert_close(
        other(images, step_at(), LABELS).loss, method(images, step_at(), LABELS).loss, rtol=1e-6, atol=0
    )


def test_text_belongs_to_the_class_and_is_sometimes_left_out(
    pipeline: Path, images: list[Tensor], step_at: Any
) -> None:
    method = make(pipeline, prompt_dropout=0.0)
    assert method.prompts == ["a cat", "a dog"]
    assert method(images, step_at(), LABELS).loss.item() != method(images, step_at(), 1 - LABELS).loss.item()
    alone = make(pipeline, prompt="a photo", classes=[], prompt_dropout=0.0)
    assert torch.equal(alone(images, step_at(), LABELS).loss, alone(images, step_at(), None).loss)


def test_what_is_saved_changes_what_the_pipeline_makes(
    pipeline: Path, images: list[Tensor], step_at: Any, tmp_path: Path
) -> None:
    method = make(pipeline)
    for name, parameter in method.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.5)
    method.save(tmp_path / "lora")
    fields: dict[str, Any] = {
        "kind": "generate",
        "name": "x",
        "seed": 0,
        "into": "x",
        "images": 1,
        "prompts": {"classes": ["cat"]},
    }
    made = []
    for changes in ({}, {"lora": str(tmp_path / "lora")}):
        settings = {"source": str(pipeline), "steps": 3} | changes
        job = GenerateSpec.model_validate(fields | {"pipeline": settings})
        made.append(ImageMaker(job, pipeline, "cpu")([Slot(0, prompt="a cat")], [1]))
    assert np.abs(made[0] - made[1]).max() > 1e-3
    samples = method.samples(3, seed=0)
    assert samples.shape == (3, 32, 32, 3)
    assert np.array_equal(samples, method.samples(3, seed=0))


def test_a_data_set_is_that_of_its_lora_weights_wherever_they_lie(pipeline: Path, tmp_path: Path) -> None:
    method = make(pipeline)
    for place in ("here", "there"):
        method.save(tmp_path / place)
    for parameter in method.state_dict().values():
        parameter.add_(1)
    method.save(tmp_path / "other")

    def content(lora: str) -> str:
        fields = {"kind": "generate", "name": "x", "seed": 0, "into": "x", "images": 1}
        settings = {"source": str(pipeline), "lora": lora}
        job = GenerateSpec.model_validate(fields | {"prompts": {"classes": ["cat"]}, "pipeline": settings})
        return content_id(job, digest_of_all(job.pipeline, job.object_store, pipeline), Conditions())

    here = content(str(tmp_path / "here"))
    assert content(str(tmp_path / "there")) == content(f"file://{tmp_path}/there") == here
    assert content(str(tmp_path / "other")) != here
    for lora, got in ((str(tmp_path), "0 .safetensors files"), ("owner/name", "owner/name: no such folder")):
        with pytest.raises(SpecError, match=got):
            content(lora)


def test_weights_that_do_not_fit_the_pipeline_are_one_clear_error(pipeline: Path, tmp_path: Path) -> None:
    save_file({"unet.nothing.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "weights.safetensors")
    fields = {"kind": "generate", "name": "x", "seed": 0, "into": "x", "images": 1}
    settings = {"source": str(pipeline), "lora": str(tmp_path)}
    job = GenerateSpec.model_validate(fields | {"prompts": {"classes": ["cat"]}, "pipeline": settings})
    with pytest.raises(SpecError, match="pipeline.lora: .* cannot be loaded into StableDiffusionPipeline"):
        ImageMaker(job, pipeline, "cpu")


def test_what_cannot_be_adapted_says_why(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a multiple of 2"):
        make(pipeline, image_size=33)
    with pytest.raises(SpecError, match="Stable Diffusion pipeline"):
        make(tmp_path / "none")
    with pytest.raises(SpecError, match="Stable Diffusion pipeline"):
        make(save_unconditional(tmp_path / "ddpm"))
