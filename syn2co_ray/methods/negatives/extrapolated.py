"""Extrapolated: a hard negative pushed past itself, away from the query.

    s = (q + b (n - q)) / z = ((1 - b) q + b n) / z,   b ~ U(1, beta_max)
                                                        SynCo (arXiv 2410.02401) section 3, type 2
    z^2 = (1 - b)^2 |q|^2 + b^2 |n|^2 + 2 b (1 - b) q.n

| symbol | meaning | shape |
|---|---|---|
| b | how far along the line from q through n, one a negative | (n, count) |
| n | queue entry drawn from the query's hardest | (n, count) of C |
| z | length before normalising | (n, count) |

Stop-gradient on b, n and z, and on q inside s: d(q.s)/dq = s. Default beta_max 1.5. The comment in the
published code, n + b (n - q), would push a whole length further; the formula here is what that code runs.
"""

from __future__ import annotations

from torch import Generator, Tensor

from syn2co_ray.spec.negatives import ExtrapolatedSpec

from ..draws import Draws
from .pool import HardestPool, draw_members, draw_uniform


def draw(generator: Generator, rows: int, hardest: int, features: int, spec: ExtrapolatedSpec) -> Draws:
    """members (rows, count) int64 in [0, hardest); beta (rows, count) in [1, beta_max)."""
    members = draw_members(generator, rows, hardest, spec.count)
    return {"members": members, "beta": draw_uniform(generator, rows, spec.count, 1.0, spec.beta_max)}


def logits(pool: HardestPool, draws: Draws, spec: ExtrapolatedSpec) -> Tensor:
    """q.s before temperature, (n, count)."""
    b = draws["beta"].to(pool.q.dtype)
    return pool.combination(1.0 - b, b, pool.entries(draws["members"]))
