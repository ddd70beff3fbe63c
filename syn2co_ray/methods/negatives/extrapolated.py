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

from syn2co_ray.spec.negatives import ExtrapolatedSpec

from ..draws import Draws, RowDraws
from .pool import HardestPool, Synthesized


def draw(draws: RowDraws, stream: str, hardest: int, features: int, spec: ExtrapolatedSpec) -> Draws:
    """members (rows, count) int64 in [0, hardest); beta (rows, count) in [1, beta_max)."""
    members = draws.integers(f"{stream}/members", spec.count, end=hardest)
    beta = draws.uniform(f"{stream}/beta", spec.count, low=1.0, high=spec.beta_max)
    return {"members": members, "beta": beta}


def synthesize(pool: HardestPool, draws: Draws, spec: ExtrapolatedSpec) -> Synthesized:
    """Negatives (n, count) of a block of queries."""
    b = draws["beta"].to(pool.q.dtype)
    return pool.combination(1.0 - b, b, pool.places(draws["members"]))
