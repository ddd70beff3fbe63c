"""Representation statistics: closed forms, loops from the papers' formulas, and SciPy on views of real images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.datasets import load_digits

from syn2co_ray.data.index import build_index
from syn2co_ray.evaluate.features import raw_pixels
from syn2co_ray.evaluate.labelled import LabelledSet
from syn2co_ray.evaluate.random_views import random_views
from syn2co_ray.evaluate.statistics import alignment, lidar, rankme, uniformity
from syn2co_ray.spec.evaluation import StatisticsSpec
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec


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


def test_alignment_and_uniformity_of_views_of_real_images_are_scipys(shared_dir):
    """Three random views of 150 CIFAR-10 JPEGs as raw pixels, to 1e-9."""
    store = ObjectStoreSpec()
    source = SourceSpec(uri=f"{shared_dir}/data/cifar10_jpeg/test-*.parquet")
    images = LabelledSet((build_index(source, store),), store, 32, 1024, 64)
    views = random_views(images, StatisticsSpec(images=150, views=3), raw_pixels, torch.device("cpu"), 0)
    assert views.shape == (150, 3, 3 * 32 * 32)
    unit = views.double().numpy() / np.linalg.norm(views.double().numpy(), axis=2, keepdims=True)
    apart = [pdist(of_an_image, "sqeuclidean").mean() for of_an_image in unit]
    assert alignment(views) == pytest.approx(np.mean(apart), rel=1e-9)
    kernels = np.exp(-2 * pdist(unit[:, 0], "sqeuclidean"))
    assert uniformity(views[:, 0]) == pytest.approx(np.log(kernels.mean()), rel=1e-9)
    # Views of one image lie nearer to each other than images do.
    assert alignment(views) < pdist(unit[:, 0], "sqeuclidean").mean()
