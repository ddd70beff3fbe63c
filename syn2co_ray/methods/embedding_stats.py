"""How much of the embedding space is in use, so that collapse is seen at once."""

from __future__ import annotations

import torch
from torch import Tensor

SPREAD_MIN = 0.02
"""Below this `embedding/spread` the embeddings count as collapsed: it is 0 when all are one direction, and
around a half when training starts."""


@torch.no_grad()
def embedding_stats(online: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Telemetry of one rank's rows; scalars on the same device.

    | name | meaning |
    |---|---|
    | embedding/rankme | exp of the entropy of the singular values of the online rows (RankMe, Garrido et al., arXiv 2210.02885, eq. 1): 1 when all rows are one direction, at most min(n, C) |
    | embedding/spread | (rankme - 1) / (min(n, C) - 1), 0 to 1 |
    | embedding/alignment | mean squared distance of a row to its partner, 0 to 4 (Wang and Isola, arXiv 2005.10242, eq. 5, alpha 2) |
    | embedding/uniformity | log mean exp(-2 d^2) over pairs of different rows, 0 when they are all equal (the same, eq. 6, t 2) |

    Args:
        online: unit rows (n, C) of the online branch, n >= 2, C >= 2.
        target: unit rows (n, C) that should agree with them.
    """  # noqa: E501
    online, target = online.float(), target.float()
    singular = torch.linalg.svdvals(online)
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    rank = torch.exp(torch.special.entr(share).sum())
    return {
        "embedding/rankme": rank,
        "embedding/spread": (rank - 1.0) / (min(online.shape) - 1),
        "embedding/alignment": (online - target).square().sum(dim=1).mean(),
        "embedding/uniformity": torch.pdist(online).square().mul(-2).exp().mean().log(),
    }
