"""Which anchors and regions a step learns from, the same whatever the number of ranks.

torchvision draws them from torch's global generator, image after image: what one image gets would depend on
those before it. Here each image has a seed of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler


class ImageSampler(BalancedPositiveNegativeSampler):
    """torchvision's sampler with a seed for each image, set before every call.

    Attributes:
        seeds: of the images to come.
        taken: how many the last call took, of all its images.
        objects: how many of these hold an object.
    """

    def __init__(self, size_per_image: int, objects_share: float) -> None:
        """Of each image `size_per_image`, at most `objects_share` of them with an object."""
        super().__init__(size_per_image, objects_share)
        self.seeds: Sequence[int] = ()
        self.taken = self.objects = 0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's."""
        objects, background = [], []
        for seed, matched in zip(self.seeds, matched_idxs, strict=True):
            # It takes no generator of its own.
            torch.manual_seed(seed)
            (with_object,), (without,) = super().__call__([matched])
            objects.append(with_object)
            background.append(without)
        self.objects = sum(int(mask.sum()) for mask in objects)
        self.taken = self.objects + sum(int(mask.sum()) for mask in background)
        return objects, background
