"""Noise: a hard negative with Gaussian noise on every coordinate.

    s = (n + sigma e) / z,   e ~ N(0, I)                    SynCo (arXiv 2410.02401) section 3, type 4
    z^2 = |n|^2 + 2 sigma n.e + sigma^2 |e|^2

| symbol | meaning | shape |
|---|---|---|
| e | standard normal, one a coordinate | (n, count, C) |
| n | queue entry drawn from the query's hardest | (n, count) of C |
| z | length before normalising | (n, count) |

Stop-gradient on s: d(q.s)/dq = s. Default sigma 0.1 (SynBY); SynCo's is 0.01. The noise has length
sigma sqrt(C): at C = 256 and sigma 0.1 it is 1.6 times as long as n, which makes a hard negative an easy one
(watch its logit).

The gradient holds e itself, so with `draw: full` this is the one kind that draws C numbers a negative, and
most of the time of all kinds together goes there. With `draw: low_dimensional` it draws three: e along q,
along the part u of n at right angles to q, and the squared length of the rest,

    z_1, z_2 ~ N(0, 1),   r ~ chi^2 with C - 2 degrees of freedom
    q.e = |q| z_1,   n.e = (q.n / |q|) z_1 + |u| z_2,   |e|^2 = z_1^2 + z_2^2 + r

Logits, and so losses, have exactly the same distribution. The gradient takes E[e | z_1, z_2, r] =
z_1 q/|q| + z_2 u/|u| for e: the softmax depends on the three numbers alone, so it is unbiased and has less
variance than that of full draws (their part at right angles to q and n, zero in the mean, is left out).
Training is less noisy, then, and not the same run with other numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from syn2co_ray.spec.negatives import NoiseSpec

from ..draws import Draws, RowDraws
from .pool import HardestPool, Synthesized, dots_with_vectors, inverse_length


def draw(draws: RowDraws, stream: str, hardest: int, features: int, spec: NoiseSpec) -> Draws:
    """members (rows, count) int64 in [0, hardest), and

    normal (rows, count, features) of full draws;
    along_query, along_entry, rest_squared (rows, count) of low-dimensional ones.
    """
    members = draws.integers(f"{stream}/members", spec.count, end=hardest)
    if spec.draw == "full":
        return {"members": members, "normal": draws.normal(f"{stream}/normal", spec.count, features)}
    return {
        "members": members,
        "along_query": draws.normal(f"{stream}/along_query", spec.count),
        "along_entry": draws.normal(f"{stream}/along_entry", spec.count),
        "rest_squared": draws.chi_squared(f"{stream}/rest_squared", spec.count, degrees=features - 2),
    }


def synthesize(pool: HardestPool, draws: Draws, spec: NoiseSpec) -> Synthesized:
    """Negatives (n, count) of a block of queries."""
    places = pool.places(draws["members"])
    if "normal" not in draws:
        return _low_dimensional(pool, places, draws, spec.sigma)
    e, n_squared = draws["normal"].to(pool.q.dtype), pool.squared_length_of(places)
    n_e = dots_with_vectors(pool.queue, places, e)
    own_query = torch.arange(len(e), device=e.device).unsqueeze(1).expand_as(places)
    q_e = dots_with_vectors(pool.q, own_query, e)
    e_e = torch.linalg.vector_norm(e, dim=2).square()
    scale = inverse_length(n_squared + 2.0 * spec.sigma * n_e + spec.sigma**2 * e_e)
    logits = (pool.similarity_to(places) + spec.sigma * q_e) * scale
    return Synthesized(logits, ((places, scale),), of_vectors=(e, spec.sigma * scale))


def _low_dimensional(pool: HardestPool, places: Tensor, draws: Draws, sigma: float) -> Synthesized:
    z_1, z_2, rest = (draws[name].to(pool.q.dtype) for name in ("along_query", "along_entry", "rest_squared"))
    q_length = pool.q_squared.sqrt().clamp_min(torch.finfo(pool.q.dtype).tiny)
    q_n, n_squared = pool.similarity_to(places), pool.squared_length_of(places)
    along = q_n / q_length
    across = (n_squared - along.square()).clamp_min(torch.finfo(along.dtype).eps).sqrt()
    n_e = along * z_1 + z_2 * across
    scale = inverse_length(n_squared + 2.0 * sigma * n_e + sigma**2 * (z_1**2 + z_2**2 + rest))
    of_entry = (1.0 + sigma * z_2 / across) * scale
    of_query = sigma * (z_1 - z_2 * along / across) / q_length * scale
    return Synthesized((q_n + sigma * q_length * z_1) * scale, ((places, of_entry),), of_query=of_query)
