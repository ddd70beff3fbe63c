"""uint8 views -> the float tensors that networks see."""

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
