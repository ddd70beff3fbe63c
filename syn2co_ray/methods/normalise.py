"""uint8 views -> the float tensors that networks see, and back to pixels for networks that generate."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Channel statistics of ImageNet, as in every published recipe."""


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 images (n, 3, H, W) to float32 with ImageNet's mean and deviation, on their device."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1) * 255
    return (images.to(torch.float32) - mean) / std


def signed_pixels(normalised: Tensor) -> Tensor:
    """Undo `normalise`, to values in [-1, 1], as diffusion models take and give them."""
    mean = torch.tensor(MEAN, dtype=normalised.dtype, device=normalised.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, dtype=normalised.dtype, device=normalised.device).view(1, 3, 1, 1)
    return (normalised * std + mean) * 2.0 - 1.0
