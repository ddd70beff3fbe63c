"""Features as they are compared: on the unit sphere, in full precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Rows (n, C) divided by their length, at least float32; the zero row stays zero."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)
