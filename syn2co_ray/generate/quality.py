"""How good a data set is: generated images beside real ones, by the features of an encoder.

    FID         Heusel et al., arXiv 1706.08500       distance of the two sets' means and covariances
    KID         Binkowski et al., arXiv 1801.01401    the same by a kernel, unbiased for small sets
    precision   Kynkaanniemi et al., arXiv 1904.06991 share of generated images among the real ones
    recall                                            share of real images among the generated ones

With another encoder than Inception they compare data sets with each other, not with published figures.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from ..data.index import build_index
from ..spec.generate import QualitySpec
from ..spec.source import ObjectStoreSpec, SourceSpec
from .encoder import Encoder, decoded_images

NEIGHBOURS = 3
KID_SUBSETS, KID_SUBSET_MAX = 50, 1000


def measure_quality(spec: QualitySpec, into: str, options: ObjectStoreSpec, device: str) -> dict[str, float]:
    """Figures of the data set at `into`; see the module.

    Raises:
        SpecError, DataError, StorageError: an encoder or a set that cannot be used.
    """
    encoder = Encoder(spec.encoder, options, device)
    sources = (spec.real, SourceSpec(uri=into, origin="generated", format="parquet"))
    real, generated = (
        encoder(decoded_images(build_index(source, options), options, spec.images_max)) for source in sources
    )
    return {
        "real_images": len(real),
        "generated_images": len(generated),
        **distances(real, generated),
        **precision_and_recall(real.numpy(), generated.numpy()),
    }


def distances(real: torch.Tensor, generated: torch.Tensor) -> dict[str, float]:
    """FID and KID of features (n, C)."""
    features = _Passed(real.shape[1])
    fid = FrechetInceptionDistance(feature=features, normalize=True).set_dtype(torch.float64)
    kid = KernelInceptionDistance(
        feature=features,
        normalize=True,
        subsets=KID_SUBSETS,
        subset_size=min(KID_SUBSET_MAX, len(real), len(generated)),
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        for metric in (fid, kid):
            metric.update(real.double(), real=True)
            metric.update(generated.double(), real=False)
        mean, _ = kid.compute()
        return {"fid": float(fid.compute()), "kid": float(mean)}
    finally:
        torch.random.set_rng_state(state)


def precision_and_recall(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """Shares of features (n, C) that lie within a neighbour's distance of one of the other set."""
    return {
        "precision": _share_inside(generated, real),
        "recall": _share_inside(real, generated),
    }


def _share_inside(points: np.ndarray, manifold: np.ndarray) -> float:
    own = NearestNeighbors(n_neighbors=min(NEIGHBOURS + 1, len(manifold))).fit(manifold)
    radii = own.kneighbors(manifold)[0][:, -1]
    inside = np.zeros(len(points), dtype=bool)
    for first in range(0, len(points), 256):
        block = points[first : first + 256]
        squared = (block**2).sum(1)[:, None] + (manifold**2).sum(1)[None] - 2 * block @ manifold.T
        inside[first : first + 256] = (np.sqrt(np.maximum(squared, 0)) <= radii[None]).any(axis=1)
    return float(inside.mean())


class _Passed(nn.Module):
    """torchmetrics wants a network; the features are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features
