"""LoRA on a text-to-image model: low-rank changes of its attention learn the user's own images.

Hu et al., arXiv 2106.09685, on a latent diffusion model (Rombach et al., arXiv 2112.10752) of Stable
Diffusion's kind. With the latent z of an image, its text c, a timestep t and noise e:

    loss = mean (e - network(sqrt(a_t) z + sqrt(1 - a_t) e, t, c))^2

or the same of the velocity, where the model predicts that. Networks are diffusers' and stay as they are;
state and checkpoints hold the LoRA weights alone. A tenth of the images (`prompt_dropout`) are learned
without text, so that guidance keeps working. All draws belong to rows of the global batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from syn2co_ray.spec.errors import Fault, SpecError, first_line
from syn2co_ray.spec.generator_method import LoraSpec

from .contract import MethodOutput, StepContext
from .draws import RowDraws, seed_of, seeded_initialisation
from .generator import GeneratorMethod
from .normalise import signed_pixels

SAMPLE_STEPS, SAMPLES_MAX = 30, 16
OWN = "lora_"


class Lora(GeneratorMethod):
    """See the module. `encoder` is the denoising network with its LoRA weights."""

    def __init__(self, pipeline: Any, spec: LoraSpec, image_size: int) -> None:
        super().__init__()
        self.spec, self.image_size = spec, image_size
        self.prompts = [spec.prompt.format(name=name) for name in spec.classes] or [spec.prompt]
        self.encoder: nn.Module = pipeline.unet
        # Not a submodule: it is frozen, and belongs neither into checkpoints nor to DDP.
        self._frozen = pipeline
        with torch.no_grad():
            texts, _ = pipeline.encode_prompt([*self.prompts, ""], "cpu", 1, False)
        self.register_buffer("texts", texts.detach().float(), persistent=False)
        self.texts: Tensor

    def forward(self, views: list[Tensor], step: StepContext, labels: Tensor | None = None) -> MethodOutput:
        """Loss of one view of this rank's rows, (n, 3, S, S), with their classes; see `Method.forward`."""
        (view,) = views
        draws = RowDraws(step.seed, step.step, step.first_row, len(view), view.device)
        latents = self._latents(signed_pixels(view), draws)
        noise = draws.normal("noise", *latents.shape[1:]).to(latents.dtype)
        scheduler = self._frozen.scheduler
        timesteps = draws.integers("timestep", end=scheduler.config.num_train_timesteps)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        predicted = self.encoder(noisy, timesteps, self._texts(labels, draws, latents.dtype)).sample
        wanted = noise
        if scheduler.config.prediction_type == "v_prediction":
            wanted = scheduler.get_velocity(latents, noise, timesteps)
        errors = (predicted.to(wanted.dtype) - wanted).float().square().mean(dim=(1, 2, 3))
        return MethodOutput(errors.sum() * step.loss_scale(len(view)))

    @torch.no_grad()
    def _latents(self, images: Tensor, draws: RowDraws) -> Tensor:
        vae = self._frozen.vae.to(images.device)
        found = vae.encode(images.to(vae.dtype)).latent_dist
        latents = found.mean + found.std * draws.normal("latent", *found.mean.shape[1:]).to(found.mean.dtype)
        return (latents * vae.config.scaling_factor).float()

    def _texts(self, labels: Tensor | None, draws: RowDraws, dtype: torch.dtype) -> Tensor:
        rows = torch.zeros(draws.rows, dtype=torch.int64, device=self.texts.device)
        if self.spec.classes and labels is not None:
            rows = labels
        without = draws.uniform("prompt") < self.spec.prompt_dropout
        return self.texts[torch.where(without, len(self.prompts), rows)].to(dtype)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The LoRA weights alone."""
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if OWN in name}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """The counterpart of `state_dict`."""
        if strict and set(state_dict) != set(self.state_dict()):
            raise RuntimeError("these are not the LoRA weights of this network")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def save(self, folder: Path) -> None:
        """Write the weights as `pipeline.lora` of `kind: generate`, or diffusers, loads them."""
        weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.encoder))
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights, safe_serialization=True)

    @torch.no_grad()
    def samples(self, count: int, seed: int) -> np.ndarray:
        """See `GeneratorMethod`; at most 16, going round the prompts."""
        pipeline = self._frozen.to(self.texts.device)
        pipeline.set_progress_bar_config(disable=True)
        made = []
        for number in range(min(count, SAMPLES_MAX)):
            image = pipeline(
                self.prompts[number % len(self.prompts)],
                height=self.image_size,
                width=self.image_size,
                num_inference_steps=SAMPLE_STEPS,
                generator=torch.Generator().manual_seed(seed_of(seed, "sample", number)),
                output_type="np",
            ).images[0]
            made.append((np.nan_to_num(image) * 255.0).round().astype(np.uint8))
        return np.stack(made)


def build(spec: LoraSpec, image_size: int, seed: int) -> Lora:
    """The pipeline of `spec.source` with fresh LoRA weights.

    Raises:
        SpecError: no such pipeline, one of another kind, or a size that its latents cannot have.
    """
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            spec.source,
            dtype=getattr(torch, spec.weights_dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        got = f"{spec.source}: {first_line(error)}"
        allowed = "the folder of a Stable Diffusion pipeline, at the same path on every node"
        raise SpecError([Fault("method.source", got, allowed, "mend the path")]) from None
    if image_size % pipeline.vae_scale_factor:
        allowed = f"a multiple of {pipeline.vae_scale_factor}"
        raise SpecError([Fault("augment.image_size", f"{image_size}", allowed, "change it")])
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.rank,
        init_lora_weights="gaussian",
        target_modules=["to_k", "to_q", "to_v", "to_out.0"],
    )
    with seeded_initialisation(seed, "networks"):
        pipeline.unet.add_adapter(config)
    for parameter in pipeline.unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return Lora(pipeline, spec, image_size)
