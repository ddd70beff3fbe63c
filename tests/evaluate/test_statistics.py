"""Representation statistics: closed forms, and loops written from the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from syn2co_ray.evaluate.statistics import alignment, lidar, rankme, uniformity


def test_rankme_counts_directions_and_is_the_formula():
    assert rankme(torch.eye(8)) == pytest.approx(8, abs=1e-4)
    assert rankme(torch.ones(20, 8)) == pytest.approx(1, abs=1e-3)
    pixels = load_digits().data[:300]
    singular = np.linalg.svd(pixels, compute_uv=False)
    share = singular / singular.sum() + 1e-7
    assert rankme(torch.tensor(pixels)) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-9)


def test_lidar_counts_directions_that_tell_images_apart():
    generator = torch.Generator().manual_seed(0)
    # Image means fill 3 of 16 directions evenly, views fill all of them.
    corners = torch.tensor(
        [[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=torch.float64
    )
    means = torch.zeros(800, 16, dtype=torch.float64)
    means[:, :3] = corners.repeat(100, 1) * 100
    views = means[:, None] + torch.randn(800, 10, 16, generator=generator, dtype=torch.float64)
    assert lidar(views) == pytest.approx(3, abs=0.05)
    # Without any difference between images what is left is the noise of their means, in all directions.
    assert lidar(views - means[:, None]) > 14


def test_lidar_is_the_papers_formula():
    views = torch.tensor(load_digits().data[:400]).reshape(80, 5, 64)[:, :, 10:30]
    means = views.mean(1).numpy()
    centred = means - means.mean(0)
    between = centred.T @ centred / 79
    within = sum(np.outer(v - m, v - m) for vs, m in zip(views.numpy(), means, strict=True) for v in vs) / 320
    within += 1e-4 * np.eye(20)
    eigenvalues = np.linalg.eigvals(np.linalg.solve(within, between)).real.clip(0)
    share = eigenvalues / eigenvalues.sum()
    share = share[share > 0]
    assert lidar(views) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_alignment_and_uniformity_are_means_over_pairs():
    views = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    unit = (views / views.norm(dim=2, keepdim=True)).numpy()
    pairs = [
        ((image[i] - image[j]) ** 2).sum() for image in unit for i in range(4) for j in range(4) if i != j
    ]
    assert alignment(views) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert alignment(views[:, :1].repeat(1, 3, 1)) == pytest.approx(0, abs=1e-12)
    features = unit[:, 0]
    kernels = [math.exp(-2 * ((features[i] - features[j]) ** 2).sum()) for i in range(6) for j in range(i)]
    assert uniformity(views[:, 0] * 3) == pytest.approx(math.log(np.mean(kernels)), rel=1e-12)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-12)
