"""The queue of past keys that serve as negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn


class FeatureQueue(nn.Module):
    """Ring of K unit vectors (MoCo, arXiv 1911.05722), the same on all ranks.

    State: `features` (K, C) float32, rows of length 1; `pointer` () int64, the row written next.
    Filled with random directions at first. The global batch may have any size, and the number of
    ranks may change between steps: every rank writes the global batch's keys in row order.
    """

    features: Tensor
    pointer: Tensor

    def __init__(self, size: int, width: int, generator: Generator) -> None:
        super().__init__()
        self.register_buffer("features", F.normalize(torch.randn(size, width, generator=generator)))
        self.register_buffer("pointer", torch.tensor(0, dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write keys (B, C) at the pointer, wrapping around; of more than K, the last K stay.

        The pointer ends where B single writes would leave it. Keys with any value that is not finite
        are refused as a whole batch: queue and pointer stay. Nothing waits for the device.
        """
        size, rows = self.features.shape[0], keys.shape[0]
        kept = keys[-size:].to(self.features.dtype)
        offset = self.pointer + (rows - kept.shape[0])
        index = (offset + torch.arange(kept.shape[0], device=kept.device)) % size
        # Not only the kept ones: the decision must not depend on the queue's length.
        finite = torch.isfinite(keys).all()
        self.features[index] = torch.where(finite, kept, self.features[index])
        self.pointer.copy_(torch.where(finite, (self.pointer + rows) % size, self.pointer))
