"""The queue of past keys that serve as negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn


class FeatureQueue(nn.Module):
    """Ring of K unit vectors (MoCo, arXiv 1911.05722), the same on all ranks.

    State: `features` (K, C) float32, rows of length 1; `labels` (K,) int64, the class of each entry's image,
    -1 where unknown (telemetry alone reads them); `pointer` () int64, the row written next. Filled with
    random directions at first. The global batch may have any size, and the number of ranks may change
    between steps: every rank writes the global batch's keys in row order.

    `squared_lengths` (K,) goes with `features` and is not part of the state. It is measured: published queues
    may start with rows of another length (compat.py).
    """

    features: Tensor
    labels: Tensor
    pointer: Tensor
    squared_lengths: Tensor

    def __init__(self, size: int, width: int, generator: Generator) -> None:
        super().__init__()
        self.register_buffer("features", torch.empty(size, width))
        self.register_buffer("labels", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("pointer", torch.tensor(0, dtype=torch.int64))
        self.register_buffer("squared_lengths", torch.empty(size), persistent=False)
        self.fill(F.normalize(torch.randn(size, width, generator=generator)))
        self.register_load_state_dict_post_hook(lambda queue, _: queue.fill(queue.features))

    @torch.no_grad()
    def fill(self, features: Tensor) -> None:
        """Replace all entries (K, C); labels and pointer stay."""
        self.features.copy_(features)
        self.squared_lengths.copy_(squared_length(self.features))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Tensor | None = None) -> None:
        """Write keys (B, C) and labels (B,) at the pointer, wrapping around; of more than K, the last K.

        The pointer ends where B single writes would leave it. Keys with any value that is not finite
        are refused as a whole batch: queue and pointer stay. Nothing waits for the device.
        """
        size, rows = self.features.shape[0], keys.shape[0]
        kept = keys[-size:].to(self.features.dtype)
        offset = self.pointer + (rows - kept.shape[0])
        index = (offset + torch.arange(kept.shape[0], device=kept.device)) % size
        # Not only the kept ones: the decision must not depend on the queue's length.
        finite = torch.isfinite(keys).all()
        unknown = torch.full((len(kept),), -1, device=kept.device)

        def write(ring: Tensor, new: Tensor) -> None:
            ring[index] = torch.where(finite, new, ring[index])

        write(self.features, kept)
        write(self.squared_lengths, squared_length(kept))
        write(self.labels, unknown if labels is None else labels[-size:])
        self.pointer.copy_(torch.where(finite, (self.pointer + rows) % size, self.pointer))


def squared_length(vectors: Tensor) -> Tensor:
    """|v|^2 of vectors (..., C) -> (...)."""
    return torch.linalg.vector_norm(vectors, dim=-1).square()
