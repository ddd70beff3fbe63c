"""Interpolated: a hard negative pulled part of the way to the query.

    s = (a q + (1 - a) n) / z,   a ~ U(0, alpha_max)        SynCo (arXiv 2410.02401) section 3, type 1
    z^2 = a^2 |q|^2 + (1 - a)^2 |n|^2 + 2 a (1 - a) q.n

| symbol | meaning | shape |
|---|---|---|
| a | weight of the query, one a negative | (n, count) |
| n | queue entry drawn from the query's hardest | (n, count) of C |
| z | length before normalising | (n, count) |

Stop-gradient on a, n and z, and on q inside s: d(q.s)/dq = s. Default alpha_max 0.5: the negative stays
nearer to n than to q.
"""

from __future__ import annotations

from syn2co_ray.spec.negatives import InterpolatedSpec

from ..draws import Draws, RowDraws
from .pool import HardestPool, Synthesized


def draw(draws: RowDraws, stream: str, hardest: int, features: int, spec: InterpolatedSpec) -> Draws:
    """members (rows, count) int64 in [0, hardest); alpha (rows, count) in [0, alpha_max)."""
    members = draws.integers(f"{stream}/members", spec.count, end=hardest)
    return {"members": members, "alpha": draws.uniform(f"{stream}/alpha", spec.count, high=spec.alpha_max)}


def synthesize(pool: HardestPool, draws: Draws, spec: InterpolatedSpec) -> Synthesized:
    """Negatives (n, count) of a block of queries."""
    a = draws["alpha"].to(pool.q.dtype)
    return pool.combination(a, 1.0 - a, pool.places(draws["members"]))
