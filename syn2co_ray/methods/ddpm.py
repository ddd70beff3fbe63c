"""A denoising diffusion model on pixels: the network predicts the noise that was mixed into an image.

Ho et al., arXiv 2006.11239, equation 14, on diffusers' network and noise schedule. With an image x
in [-1, 1], a timestep t drawn for it and noise e ~ N(0, 1):

    loss = mean (e - network(sqrt(a_t) x + sqrt(1 - a_t) e, t))^2

What is published is a moving average of the network's weights, as there. Noise and timesteps belong to rows
of the global batch, so the number of workers does not change what is learned.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from syn2co_ray.spec.generator_method import DdpmSpec

from .contract import MethodOutput, StepContext
from .draws import RowDraws, seed_of, seeded_initialisation
from .generator import GeneratorMethod
from .momentum import MomentumUpdate
from .normalise import signed_pixels

NORM_GROUPS = 8
SAMPLE_STEPS = 50


class DDPM(GeneratorMethod):
    """See the module. `encoder` is the network in training, `average` what is published."""

    def __init__(self, network: UNet2DModel, spec: DdpmSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = network
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.momentum = MomentumUpdate(spec.momentum, rises=False)
        self.scheduler = DDPMScheduler(
            num_train_timesteps=spec.timesteps, beta_schedule=spec.noise_schedule, clip_sample=True
        )

    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of one view of this rank's rows, (n, 3, S, S); see `Method.forward` and the module."""
        (view,) = views
        clean = signed_pixels(view)
        self.momentum.advance(
            self.average.parameters(), self.encoder.parameters(), step.step, step.total_steps
        )
        draws = RowDraws(step.seed, step.step, step.first_row, len(clean), clean.device)
        noise = draws.normal("noise", *clean.shape[1:]).to(clean.dtype)
        timesteps = draws.integers("timestep", end=self.spec.timesteps)
        predicted = self.encoder(self.scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        errors = (predicted.to(noise.dtype) - noise).square().mean(dim=(1, 2, 3))
        return MethodOutput(errors.sum() * step.loss_scale(len(clean)))

    def save(self, folder: Path) -> None:
        """Write the averaged network as a pipeline that `kind: generate`, or diffusers, loads."""
        network = copy.deepcopy(self.average).to("cpu", getattr(torch, self.spec.weights_dtype))
        DDPMPipeline(network, self.scheduler).save_pretrained(folder, safe_serialization=True)

    def samples(self, count: int, seed: int) -> np.ndarray:
        """See `GeneratorMethod`; made with the averaged network and 50 steps of DDIM."""
        pipeline = DDPMPipeline(self.average, DDIMScheduler.from_config(self.scheduler.config))
        pipeline.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed_of(seed, "sample", i)) for i in range(count)]
        made = pipeline(
            batch_size=count, generator=generators, num_inference_steps=SAMPLE_STEPS, output_type="np"
        )
        return (np.asarray(made.images) * 255.0).round().astype(np.uint8)


def build(spec: DdpmSpec, image_size: int, seed: int) -> DDPM:
    """A DDPM as the spec says, for images of `image_size` pixels."""
    attention = [level in spec.attention_levels for level in range(len(spec.block_channels))]
    with seeded_initialisation(seed, "networks"):
        network = UNet2DModel(
            sample_size=image_size,
            in_channels=3,
            out_channels=3,
            block_out_channels=spec.block_channels,
            layers_per_block=spec.layers_per_block,
            norm_num_groups=NORM_GROUPS,
            down_block_types=["AttnDownBlock2D" if here else "DownBlock2D" for here in attention],
            up_block_types=["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)],
            attention_head_dim=NORM_GROUPS,
        )
    return DDPM(network, spec)
