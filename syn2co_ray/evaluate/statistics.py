"""What features look like without labels: rank, and how views of an image lie to each other.

| figure | what |
|---|---|
| rankme | exp of the entropy of the features' singular values (Garrido et al., arXiv 2210.02885, eq. 1) |
| lidar | exp of the entropy of the eigenvalues of the linear discriminant of images, each of which is a class of its views (Thilak et al., arXiv 2312.04000, eq. 1 to 4, delta 1e-4) |
| alignment | mean squared distance of two views of an image on the unit sphere (Wang and Isola, arXiv 2005.10242, alpha 2) |
| uniformity | log mean exp(-2 d^2) over pairs of images on the unit sphere (the same, t 2) |
"""  # noqa: E501

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LIDAR_DELTA = 1e-4
RANKME_EPSILON = 1e-7


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """Effective rank of (n, F) features; 1 to min(n, F). They are not centred, as in the paper."""
    singular = torch.linalg.svdvals(features.double())
    share = singular / singular.sum() + RANKME_EPSILON
    return float(torch.exp(-(share * share.log()).sum()))


@torch.no_grad()
def lidar(views: Tensor) -> float:
    """Effective rank of what tells images apart: (n images, q views, F); 1 to min(n - 1, F)."""
    views = views.double()
    images, number, width = views.shape
    means = views.mean(dim=1)
    spread = (means - means.mean(dim=0)).T @ (means - means.mean(dim=0)) / (images - 1)
    inside = (views - means[:, None]).flatten(0, 1)
    within = inside.T @ inside / (images * (number - 1))
    within += LIDAR_DELTA * torch.eye(width, dtype=views.dtype)
    values, vectors = torch.linalg.eigh(within)
    whitening = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    eigenvalues = torch.linalg.eigvalsh(whitening @ spread @ whitening).clamp_min(0)
    share = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(views.dtype).tiny)
    return float(torch.exp(torch.special.entr(share).sum()))


@torch.no_grad()
def alignment(views: Tensor) -> float:
    """(n, q, F): mean of |a - b|^2 over all pairs of different views of an image, unit length; 0 to 4."""
    unit = F.normalize(views.double(), dim=2)
    number = unit.shape[1]
    # sum over ordered pairs of |a - b|^2 = 2 q sum |a|^2 - 2 |sum a|^2
    squares = 2 * number * unit.square().sum(dim=(1, 2)) - 2 * unit.sum(dim=1).square().sum(dim=1)
    return float((squares / (number * (number - 1))).mean())


@torch.no_grad()
def uniformity(features: Tensor) -> float:
    """(n, F), n >= 2: log of the mean over pairs of exp(-2 |a - b|^2), unit length; 0 when all are equal."""
    distances = torch.pdist(F.normalize(features.double(), dim=1))
    return float(distances.square().mul(-2).exp().mean().log())
