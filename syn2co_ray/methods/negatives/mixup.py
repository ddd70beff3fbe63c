"""Mixup: two of the query's hard negatives, mixed.

    s = (g n_i + (1 - g) n_j) / z,   g ~ U(0, gamma_max)    SynCo (arXiv 2410.02401) section 3, type 3
    z^2 = g^2 |n_i|^2 + (1 - g)^2 |n_j|^2 + 2 g (1 - g) n_i.n_j

| symbol | meaning | shape |
|---|---|---|
| g | weight of the first, one a negative | (n, count) |
| n_i, n_j | queue entries drawn independently from the query's hardest (maybe equal) | (n, count) of C |
| z | length before normalising | (n, count) |

Stop-gradient on everything but the query that meets s: d(q.s)/dq = s. Default gamma_max 1. After MoCHI
(arXiv 2010.01028, eq. 3).
"""

from __future__ import annotations

from torch import Generator, Tensor

from syn2co_ray.spec.negatives import MixupSpec

from ..draws import Draws
from .pool import HardestPool, dots_between_entries, draw_members, draw_uniform, inverse_length


def draw(generator: Generator, rows: int, hardest: int, features: int, spec: MixupSpec) -> Draws:
    """members, members_other (rows, count) int64 in [0, hardest); gamma (rows, count) in [0, gamma_max)."""
    return {
        "members": draw_members(generator, rows, hardest, spec.count),
        "members_other": draw_members(generator, rows, hardest, spec.count),
        "gamma": draw_uniform(generator, rows, spec.count, 0.0, spec.gamma_max),
    }


def logits(pool: HardestPool, draws: Draws, spec: MixupSpec) -> Tensor:
    """q.s before temperature, (n, count)."""
    g = draws["gamma"].to(pool.q.dtype)
    first, second = pool.entries(draws["members"]), pool.entries(draws["members_other"])
    squared = (
        g * g * pool.squared_length_of(first)
        + (1.0 - g) ** 2 * pool.squared_length_of(second)
        + 2.0 * g * (1.0 - g) * dots_between_entries(pool.queue, first, second)
    )
    scale = inverse_length(squared)
    return g * scale * pool.similarity_to(first) + (1.0 - g) * scale * pool.similarity_to(second)
