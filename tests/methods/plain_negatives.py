"""The plain way, as an oracle: every negative is built, normalised and multiplied; autograd does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from syn2co_ray.spec.negatives import NegativesSpec


def info_nce(positive: Tensor, negatives: Sequence[Tensor], temperature: float) -> Tensor:
    """-log softmax([q.k, q.Q, q.S] / temperature)[0] of each query, (n,).

    Args:
        positive: q.k, (n,).
        negatives: blocks of q.Q or q.S, each (n, M_i).
    """
    logits = torch.cat([positive.unsqueeze(1), *negatives], dim=1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64), reduction="none")


def vectors(
    name: str, q: Tensor, n: Tensor, other: Tensor, draws: Mapping[str, Tensor], spec: NegativesSpec
) -> Tensor:
    """Negatives of one kind as SynCo section 3 writes them: (n, count, C), unit length, no gradient.

    Args:
        q: queries (n, C).
        n: the queue entries they are made from, (n, count, C).
        other: the second ones, for mixup, (n, count, C).
        draws: recorded or made draws of the kind.
    """
    q = q.detach().unsqueeze(1)

    def coefficient(key: str) -> Tensor:
        return draws[key].to(q.dtype).unsqueeze(2)

    formula: dict[str, Callable[[], Tensor]] = {
        "interpolated": lambda: coefficient("alpha") * q + (1 - coefficient("alpha")) * n,
        "extrapolated": lambda: q + coefficient("beta") * (n - q),
        "mixup": lambda: coefficient("gamma") * n + (1 - coefficient("gamma")) * other,
        "noise": lambda: n + spec.noise.sigma * draws["normal"].to(q.dtype),
        "perturbed": lambda: n + spec.perturbed.delta * q,
        "adversarial": lambda: n + spec.adversarial.eta * q.sign(),
    }
    return F.normalize(formula[name](), dim=2)


def synthesized_logits(
    q: Tensor,
    queue: Tensor,
    hardest: Tensor,
    drawn: Mapping[str, Mapping[str, Tensor]],
    spec: NegativesSpec,
) -> dict[str, Tensor]:
    """q.s of every kind in `drawn`: (n, count), with gradient s.

    Args:
        q: queries (n, C), with gradient.
        queue: its entries (K, C).
        hardest: places of each query's hardest entries, (n, H).
    """
    logits = {}
    for name, draws in drawn.items():
        n = queue[hardest.gather(1, draws["members"])]
        other = queue[hardest.gather(1, draws.get("members_other", draws["members"]))]
        logits[name] = (q.unsqueeze(1) * vectors(name, q, n, other, draws, spec)).sum(2)
    return logits
