"""Adversarial: a hard negative moved along the sign of the gradient of its similarity to the query.

    s = (n + eta sign(d(q.n)/dn)) / z = (n + eta sign(q)) / z
                                                        SynCo (arXiv 2410.02401) section 3, type 6
    z^2 = |n|^2 + 2 eta n.sign(q) + eta^2 #{i: q_i != 0}

| symbol | meaning | shape |
|---|---|---|
| eta | step size per coordinate; the step's length is eta sqrt(C) | () |
| sign(q) | -1, 0 or 1 per coordinate, detached | (n, C) |
| n | queue entry drawn from the query's hardest | (n, count) of C |
| z | length before normalising | (n, count) |

As a fast-gradient-sign step (arXiv 1412.6572). Stop-gradient on n, z and sign(q): d(q.s)/dq = s.
Default eta 0.01.
"""

from __future__ import annotations

from syn2co_ray.spec.negatives import AdversarialSpec

from ..draws import Draws, RowDraws
from .pool import HardestPool, Synthesized, dots_with_rows, inverse_length


def draw(draws: RowDraws, stream: str, hardest: int, features: int, spec: AdversarialSpec) -> Draws:
    """members (rows, count) int64 in [0, hardest)."""
    return {"members": draws.integers(f"{stream}/members", spec.count, end=hardest)}


def synthesize(pool: HardestPool, draws: Draws, spec: AdversarialSpec) -> Synthesized:
    """Negatives (n, count) of a block of queries."""
    places, sign = pool.places(draws["members"]), pool.sign
    squared = (
        pool.squared_length_of(places)
        + 2.0 * spec.eta * dots_with_rows(pool.queue, places, sign)
        + spec.eta**2 * sign.square().sum(dim=1, keepdim=True)
    )
    scale = inverse_length(squared)
    q_sign = pool.q.abs().sum(dim=1, keepdim=True)
    logits = (pool.similarity_to(places) + spec.eta * q_sign) * scale
    return Synthesized(logits, ((places, scale),), of_sign=spec.eta * scale)
