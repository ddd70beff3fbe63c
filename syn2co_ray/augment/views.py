"""The views of each record, by whichever backend the job asks for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from ..spec.augment import AugmentSpec
from .parameters import ViewParameters, draw_view_parameters
from .recipes import resolve_recipe


class ViewMaker:
    """Makes views that depend on (seed, epoch, key, repeat) and the image, and on nothing else."""

    def __init__(self, spec: AugmentSpec, seed: int, device: str | None = None) -> None:
        """Build for one actor or training worker.

        Args:
            spec: the job's `augment` section.
            seed: seed of the run.
            device: torch device of the torch backend; the GPU that is visible, else the CPU, when
                left out. The opencv backend has no device. A training worker that makes its own views
                always says on which device it trains.
        """
        self.recipes = resolve_recipe(spec)
        numbered = enumerate(self.recipes)
        self.groups = [
            [view for view, _ in group] for _, group in groupby(numbered, lambda v: v[1].image_size)
        ]
        """Numbers of the views of one size: those of the job's size, then local ones, if any."""
        self.seed = seed
        self.backend = spec.backend
        if spec.backend == "auto":
            self.backend = "torch" if _has_gpu(spec, device) else "opencv"
        self.device = (device or _default_device()) if self.backend == "torch" else None

    def __call__(
        self,
        images: Sequence[np.ndarray],
        keys: Sequence[str],
        epochs: Sequence[int],
        repeats: Sequence[int],
    ) -> list[np.ndarray]:
        """Make the views of N records.

        Args:
            images: N decoded images, each (H, W, 3) uint8 RGB of any size.
            keys: N stable ids.
            epochs: epoch of each record, counted from 0.
            repeats: for each record, how many times its key came before within its epoch.

        Returns:
            (N, V, 3, S, S) uint8 of each group of views.
        """
        return [self._views(group, images, keys, epochs, repeats) for group in self.groups]

    def _views(
        self,
        group: list[int],
        images: Sequence[np.ndarray],
        keys: Sequence[str],
        epochs: Sequence[int],
        repeats: Sequence[int],
    ) -> np.ndarray:
        image_size = self.recipes[group[0]].image_size
        drawn = [
            self._draw(*record, view)
            for record in zip(images, keys, epochs, repeats, strict=True)
            for view in group
        ]
        shape = (len(images), len(group), 3, image_size, image_size)
        views = np.empty(shape, np.uint8)
        flat = views.reshape(-1, *shape[2:])
        repeated = [image for image in images for _ in group]
        if self.device is not None:
            from .torch_backend import apply_views  # torch takes seconds to import; CPU actors never do

            flat[:] = apply_views(repeated, drawn, image_size, self.device).cpu().numpy()
        else:
            from .opencv_backend import apply_view

            for image, parameters, out in zip(repeated, drawn, flat, strict=True):
                apply_view(image, parameters, image_size, out)
        return views

    def _draw(self, image: np.ndarray, key: str, epoch: int, repeat: int, view: int) -> ViewParameters:
        return draw_view_parameters(
            self.recipes[view],
            image_height=image.shape[0],
            image_width=image.shape[1],
            seed=self.seed,
            epoch=epoch,
            key=key,
            repeat=repeat,
            view=view,
        )


def _has_gpu(spec: AugmentSpec, device: str | None) -> bool:
    if spec.placement == "trainer":
        return device is not None and device.startswith("cuda")
    return spec.actors.gpus_each > 0


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
