"""Labels of earlier frames carried to the next one by similarity of tokens (arXiv 2006.14613, section 3.1).

Each token of the present frame takes the mean label of the tokens of earlier frames that are most like it,
among those nearby. As in DINO's evaluation, the `top_k` are chosen from all frames looked at together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...spec.video import VideoSegmentationSpec

SIMILARITIES_PER_BAND = 16_000_000
"""Rows of a frame are worked on in bands of so many similarities (64 MB in float32), whatever the grid."""


def propagated(
    target: Tensor,
    sources: Tensor,
    labels: Tensor,
    neighbourhood_tokens: int | None,
    top_k: int,
    temperature: float,
) -> Tensor:
    """Labels of one frame from those of others.

    Args:
        target: (h, w, F) tokens of unit length.
        sources: (n, h, w, F) tokens of n other frames.
        labels: (n, h, w, C) their labels.
        neighbourhood_tokens: rows and columns that a token looks around itself; None: the whole frame.
        top_k: most similar tokens that count. Of equally similar ones no more than that many do.
        temperature: of their weights.

    Returns:
        (h, w, C).
    """
    frames, height, width, _ = sources.shape
    radius = max(height, width) if neighbourhood_tokens is None else neighbourhood_tokens
    columns = torch.arange(width, device=target.device)
    far_column = (columns[:, None] - columns).abs() > radius
    found = []
    rows_each = _band_rows(height, width, frames, radius)
    for first in range(0, height, rows_each):
        last = min(first + rows_each, height)
        top, bottom = max(0, first - radius), min(height, last + radius)
        near = sources[:, top:bottom]
        similar = torch.einsum("rcf,nysf->rcnys", target[first:last], near)
        rows = torch.arange(first, last, device=target.device)
        sought = torch.arange(top, bottom, device=target.device)
        far_row = (rows[:, None] - sought).abs() > radius
        too_far = far_row[:, None, None, :, None] | far_column[None, :, None, None, :]
        flat = similar.masked_fill_(too_far, -torch.inf).flatten(0, 1).flatten(1)
        best = flat.topk(min(top_k, flat.shape[1]), dim=1)
        weights = torch.softmax(best.values / temperature, dim=1)
        chosen = labels[:, top:bottom].reshape(-1, labels.shape[-1])[best.indices]
        found.append((weights[:, :, None] * chosen).sum(dim=1))
    return torch.cat(found).view(height, width, -1)


def _band_rows(height: int, width: int, frames: int, radius: int) -> int:
    """Most rows of a frame whose similarities with all rows near them keep the limit; at least 1."""
    most = SIMILARITIES_PER_BAND // (width * frames * width)
    fit = (rows for rows in range(height, 0, -1) if rows * min(height, rows + 2 * radius) <= most)
    return next(fit, 1)


def propagated_through(
    tokens: Iterable[Tensor], first_labels: Tensor, spec: VideoSegmentationSpec
) -> Iterator[Tensor]:
    """Labels (h, w, C) of every frame after the first, one after the other.

    Args:
        tokens: (h, w, F) of unit length, of all frames in order; taken one at a time.
        first_labels: (h, w, C), one-hot labels of the first frame.
        spec: how far, how many frames, how many tokens.
    """
    each = iter(tokens)
    context: deque[tuple[Tensor, Tensor]] = deque(maxlen=spec.context_frames)
    start = (next(each), first_labels)
    for target in each:
        known = [start, *context]
        sources = torch.stack([frame for frame, _ in known])
        labels = torch.stack([label for _, label in known])
        found = propagated(target, sources, labels, spec.neighbourhood_tokens, spec.top_k, spec.temperature)
        context.append((target, found))
        yield found


def segmentation(labels: Tensor, height: int, width: int) -> Tensor:
    """Soft labels of tokens -> the number of the strongest one a pixel.

    Bilinear enlargement, then each label is stretched to 0..1 over the frame, so that a faint object is not
    lost to the background (as DINO's evaluation does).

    Args:
        labels: (h, w, C).
        height: pixels of the frame that the tokens saw.
        width: the same.

    Returns:
        (height, width) int64, 0 to C - 1.
    """
    soft = labels.permute(2, 0, 1).unsqueeze(0)
    soft = F.interpolate(soft, size=(height, width), mode="bilinear", align_corners=False)[0]
    lowest, highest = soft.amin(dim=(1, 2), keepdim=True), soft.amax(dim=(1, 2), keepdim=True)
    stretched = (soft - lowest) / (highest - lowest)
    # A label that is the same everywhere keeps its strength: there is nothing to stretch.
    return torch.where(highest > lowest, stretched, soft).argmax(dim=0)
