"""A diffusers pipeline as a function from slots and seeds to images."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import diffusers
import numpy as np
import torch
from diffusers import AutoPipelineForImage2Image, DiffusionPipeline

from ..spec.errors import Fault, SpecError, first_line
from ..spec.generate import GenerateSpec
from .slots import Slot
from .weights import local_lora, pipeline_class_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ImageMaker:
    """Holds a pipeline on a device; makes images whose noise belongs to their seeds alone.

    The noise of an image is drawn on the CPU from a generator of its own, so it is the same in any batch and
    on any device. What the network makes of it differs by rounding between batch sizes (matrix products of
    other shapes): with 8-bit images by one level in less than one value of a thousand; not at all with
    batches of one image. Pipelines that quantise latents (VQ) may take another code where one lies between
    two.
    """

    def __init__(self, job: GenerateSpec, folder: Path, device: str) -> None:
        """Load.

        Raises:
            SpecError: a pipeline that diffusers does not have, lacks a component, or cannot do what is asked.
        """
        self.job, self.device = job, device
        self.pipeline = _loaded(job, folder).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self._takes = set(inspect.signature(self.pipeline.__call__).parameters)
        self._check()
        if job.pipeline.vae_slicing:
            self.pipeline.vae.enable_slicing()
        if job.pipeline.compile:
            network = self.pipeline.unet if hasattr(self.pipeline, "unet") else self.pipeline.transformer
            network.compile()

    @torch.no_grad()
    def __call__(
        self, slots: Sequence[Slot], seeds: Sequence[int], originals: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Make one image a slot.

        Args:
            slots: with equal guidance and strength.
            seeds: of their noise.
            originals: for variations, decoded images (H, W, 3) uint8.

        Returns:
            (n, H, W, 3) float32 in [0, 1]; values that are not finite are passed on.
        """
        settings = self.job.pipeline
        asked: dict[str, Any] = {
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "num_inference_steps": settings.steps,
            "output_type": "np",
            "guidance_scale": slots[0].guidance,
            "strength": slots[0].strength,
            "height": settings.image_size,
            "width": settings.image_size,
        }
        if "class_labels" in self._takes:
            asked["class_labels"] = [slot.class_number for slot in slots]
        elif "prompt" in self._takes:
            asked["prompt"] = [slot.prompt or "" for slot in slots]
            if settings.negative_prompt is not None:
                asked["negative_prompt"] = [settings.negative_prompt] * len(slots)
        else:
            asked["batch_size"] = len(slots)
        if originals is not None:
            asked["image"] = [self._fitted(image) for image in originals]
        given = {name: value for name, value in asked.items() if name in self._takes and value is not None}
        images = np.asarray(self.pipeline(**given).images, dtype=np.float32)
        return images if images.shape[3] == 3 else np.repeat(images[..., :1], 3, axis=3)

    def _fitted(self, image: np.ndarray) -> Any:
        from PIL import Image

        size = self.job.pipeline.image_size
        if size is None:
            factor = getattr(self.pipeline, "vae_scale_factor", 8)
            height, width = (max(factor, side // factor * factor) for side in image.shape[:2])
        else:
            height = width = size
        return Image.fromarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))

    def _check(self) -> None:
        name, job = type(self.pipeline).__name__, self.job
        faults = []
        if job.prompts is not None and "prompt" not in self._takes:
            faults.append(Fault("prompts", f"{name} takes no prompt", next_step="leave prompts out"))
        if job.classes is not None and "class_labels" not in self._takes:
            faults.append(Fault("classes", f"{name} takes no classes", next_step="leave classes out"))
        if job.classes is None and "class_labels" in self._takes:
            faults.append(Fault("classes", f"missing, but {name} needs them", next_step="add classes"))
        if job.prompts is None and "prompt" in self._takes and job.variations_of is None:
            faults.append(Fault("prompts", f"missing, but {name} needs them", next_step="add prompts"))
        if job.variations_of is not None and "image" not in self._takes:
            faults.append(Fault("variations_of", f"{name} takes no image", next_step="leave it out"))
        if job.pipeline.guidance is not None and "guidance_scale" not in self._takes:
            faults.append(Fault("pipeline.guidance", f"{name} has none", next_step="leave it out"))
        size, factor = job.pipeline.image_size, getattr(self.pipeline, "vae_scale_factor", 1)
        any_size = bool({"height", "image"} & self._takes)
        if size is not None and (not any_size or size % factor):
            allowed = f"a multiple of {factor}" if any_size else "the pipeline's own size"
            faults.append(Fault("pipeline.image_size", f"{size}", allowed, "change it or leave it out"))
        if faults:
            raise SpecError(faults)


def _loaded(job: GenerateSpec, folder: Path) -> Any:
    settings = job.pipeline
    loader = AutoPipelineForImage2Image if job.variations_of is not None else DiffusionPipeline
    name = pipeline_class_name(folder)
    if not hasattr(diffusers, name):
        got = f"{folder} holds a {name}, which diffusers {diffusers.__version__} does not have"
        raise SpecError([Fault("pipeline.source", got, "a pipeline class of diffusers", "check its files")])
    try:
        pipeline = loader.from_pretrained(
            str(folder),
            dtype=DTYPES[settings.dtype],
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        got = f"{folder} cannot be loaded as {name}: {first_line(error)}"
        step = "check that every component is there, as .safetensors"
        raise SpecError([Fault("pipeline.source", got, "a whole pipeline", step)]) from None
    if settings.scheduler is not None:
        kind = getattr(diffusers, settings.scheduler, None)
        if kind is None or not hasattr(kind, "from_config"):
            got = f"diffusers has no {settings.scheduler}"
            raise SpecError([Fault("pipeline.scheduler", got, "such as DDIMScheduler", "check its name")])
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    lora = local_lora(settings, job.object_store)
    if lora is not None:
        _add_lora(pipeline, lora)
    return pipeline


def _add_lora(pipeline: Any, lora: Path) -> None:
    try:
        pipeline.load_lora_weights(
            str(lora.parent), weight_name=lora.name, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        got = f"{lora} cannot be loaded into {type(pipeline).__name__}: {first_line(error)}"
        step = "name weights that were trained on this pipeline"
        raise SpecError([Fault("pipeline.lora", got, "LoRA weights of this pipeline", step)]) from None
