"""The DDPM: its loss is the paper's, its average is what is saved, and its samples follow their seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from torch import Tensor

from syn2co_ray.methods import build_method
from syn2co_ray.methods.ddpm import DDPM
from syn2co_ray.methods.normalise import normalise, signed_pixels
from syn2co_ray.spec.generator_method import DdpmSpec


def make(**changes: Any) -> DDPM:
    fields = {"framework": "ddpm", "block_channels": [8, 16], "layers_per_block": 1, "timesteps": 50}
    method = build_method(DdpmSpec.model_validate(fields | changes), 8, 0)
    assert isinstance(method, DDPM)
    return method


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_signed_pixels_undo_the_normalisation(images: Tensor) -> None:
    torch.testing.assert_close(signed_pixels(normalise(images)), images / 127.5 - 1.0, atol=1e-5, rtol=0)


def test_loss_is_the_error_of_the_predicted_noise(images: Tensor, step_at: Any, monkeypatch: Any) -> None:
    method = make()
    seen: list[tuple[Tensor, Tensor]] = []
    network = method.encoder.forward

    def watched(noisy: Tensor, timesteps: Tensor) -> Any:
        seen.append((noisy.detach(), timesteps))
        return network(noisy, timesteps)

    monkeypatch.setattr(method.encoder, "forward", watched)
    output = method([normalise(images)], step_at())
    ((noisy, timesteps),) = seen
    kept = method.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    clean = images / 127.5 - 1.0
    noise = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
    expected = (noise - network(noisy, timesteps).sample).square().mean()
    torch.testing.assert_close(output.loss, expected, rtol=1e-3, atol=1e-3)
    assert 0 <= int(timesteps.min()) < int(timesteps.max()) < 50
    assert abs(float(noise.mean())) < 0.2
    assert 0.8 < float(noise.std()) < 1.2


def test_average_follows_the_network_and_is_what_is_saved(
    images: Tensor, step_at: Any, tmp_path: Path
) -> None:
    method = make(momentum=0.5, weights_dtype="float16")
    optimizer = torch.optim.Adam(method.encoder.parameters(), lr=1e-2)
    before = {name: value.clone() for name, value in method.average.state_dict().items()}
    for number in range(3):
        optimizer.zero_grad()
        method([normalise(images)], step_at(number)).loss.backward()
        optimizer.step()
    name = "conv_in.weight"
    average, online = method.average.state_dict()[name], method.encoder.state_dict()[name]
    assert not torch.equal(average, before[name])
    assert not torch.equal(average, online)
    method.save(tmp_path)
    again = DDPMPipeline.from_pretrained(tmp_path, use_safetensors=True)
    torch.testing.assert_close(again.unet.state_dict()[name].float(), average, atol=1e-3, rtol=1e-3)
    assert again.unet.config.sample_size == 8


def test_samples_are_a_function_of_their_seed() -> None:
    method = make()
    first = method.samples(3, seed=5)
    assert first.shape == (3, 8, 8, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, method.samples(3, seed=5))
    assert not np.array_equal(first, method.samples(3, seed=6))
