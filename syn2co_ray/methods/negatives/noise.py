"""Noise: a hard negative with Gaussian noise on every coordinate.

    s = (n + sigma e) / |n + sigma e|,   e ~ N(0, I)        SynCo (arXiv 2410.02401) section 3, type 4

| symbol | meaning | shape |
|---|---|---|
| e | standard normal, one a coordinate | (n, count, C) |
| n | queue entry drawn from the query's hardest | (n, count) of C |

Stop-gradient on s: d(q.s)/dq = s. The gradient holds e itself, so this is the one kind that builds its
vectors. Default sigma 0.1 (SynBY); SynCo's is 0.01. The noise has length sigma sqrt(C): at C = 256 and
sigma 0.1 it is 1.6 times as long as n, which makes a hard negative an easy one (watch its logit).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from syn2co_ray.spec.negatives import NoiseSpec

from ..draws import Draws
from .pool import HardestPool, draw_members, inverse_length, squared_length


def draw(generator: Generator, rows: int, hardest: int, features: int, spec: NoiseSpec) -> Draws:
    """members (rows, count) int64 in [0, hardest); normal (rows, count, features)."""
    members = draw_members(generator, rows, hardest, spec.count)
    shape = (rows, spec.count, features)
    return {"members": members, "normal": torch.randn(shape, generator=generator, device=generator.device)}


def logits(pool: HardestPool, draws: Draws, spec: NoiseSpec) -> Tensor:
    """q.s before temperature, (n, count)."""
    with torch.no_grad():
        entries = F.embedding(pool.entries(draws["members"]), pool.queue)
        built = entries.add_(draws["normal"].to(pool.q.dtype), alpha=spec.sigma)
        scale = inverse_length(squared_length(built))
    return torch.bmm(built, pool.q.unsqueeze(2)).squeeze(2) * scale
