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

from syn2co_ray.spec.negatives import MixupSpec

from ..draws import Draws, RowDraws
from .pool import (
    HardestPool,
    Synthesized,
    dots_between_entries,
    inverse_length,
)


def draw(draws: RowDraws, stream: str, hardest: int, features: int, spec: MixupSpec) -> Draws:
    """members, members_other (rows, count) int64 in [0, hardest); gamma (rows, count) in [0, gamma_max)."""
    return {
        "members": draws.integers(f"{stream}/members", spec.count, end=hardest),
        "members_other": draws.integers(f"{stream}/members_other", spec.count, end=hardest),
        "gamma": draws.uniform(f"{stream}/gamma", spec.count, high=spec.gamma_max),
    }


def synthesize(pool: HardestPool, draws: Draws, spec: MixupSpec) -> Synthesized:
    """Negatives (n, count) of a block of queries."""
    g = draws["gamma"].to(pool.q.dtype)
    first, second = pool.places(draws["members"]), pool.places(draws["members_other"])
    squared = (
        g * g * pool.squared_length_of(first)
        + (1.0 - g) ** 2 * pool.squared_length_of(second)
        + 2.0 * g * (1.0 - g) * dots_between_entries(pool.queue, first, second)
    )
    scale = inverse_length(squared)
    of_first, of_second = g * scale, (1.0 - g) * scale
    logits = of_first * pool.similarity_to(first) + of_second * pool.similarity_to(second)
    return Synthesized(logits, ((first, of_first), (second, of_second)))
