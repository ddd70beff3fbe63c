"""Perturbed: a hard negative moved along the gradient of its similarity to the query.

    s = (n + delta d(q.n)/dn) / z = (n + delta q) / z       SynCo (arXiv 2410.02401) section 3, type 5
    z^2 = |n|^2 + delta^2 |q|^2 + 2 delta q.n

| symbol | meaning | shape |
|---|---|---|
| delta | step size | () |
| n | queue entry drawn from the query's hardest | (n, count) of C |
| z | length before normalising | (n, count) |

The similarity is a dot product, so its gradient is q and no autograd call is needed. Stop-gradient on n,
z and on q inside s: d(q.s)/dq = s. Default delta 0.01, which is close to no change at all (watch its
logit against that of the hardest entries).
"""

from __future__ import annotations

from syn2co_ray.spec.negatives import PerturbedSpec

from ..draws import Draws, RowDraws
from .pool import HardestPool, Synthesized


def draw(draws: RowDraws, stream: str, hardest: int, features: int, spec: PerturbedSpec) -> Draws:
    """members (rows, count) int64 in [0, hardest)."""
    return {"members": draws.integers(f"{stream}/members", spec.count, end=hardest)}


def synthesize(pool: HardestPool, draws: Draws, spec: PerturbedSpec) -> Synthesized:
    """Negatives (n, count) of a block of queries."""
    return pool.combination(spec.delta, 1.0, pool.places(draws["members"]))
