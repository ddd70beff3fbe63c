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

from torch import Generator, Tensor

from syn2co_ray.spec.negatives import AdversarialSpec

from ..draws import Draws
from .pool import HardestPool, dots_with_rows, draw_members, inverse_length


def draw(generator: Generator, rows: int, hardest: int, features: int, spec: AdversarialSpec) -> Draws:
    """members (rows, count) int64 in [0, hardest)."""
    return {"members": draw_members(generator, rows, hardest, spec.count)}


def logits(pool: HardestPool, draws: Draws, spec: AdversarialSpec) -> Tensor:
    """q.s before temperature, (n, count)."""
    entries = pool.entries(draws["members"])
    sign = pool.q.detach().sign()
    squared = (
        pool.squared_length_of(entries)
        + 2.0 * spec.eta * dots_with_rows(pool.queue, entries, sign)
        + spec.eta**2 * sign.square().sum(dim=1, keepdim=True)
    )
    q_sign = (pool.q * sign).sum(dim=1, keepdim=True)
    return (pool.similarity_to(entries) + spec.eta * q_sign) * inverse_length(squared)
