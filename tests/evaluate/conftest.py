"""Raw pixels of two sets of real images, as features that other implementations are compared on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits

from syn2co_ray.data.decode import decode_rgb

BLOCK = 8


class Pixels(NamedTuple):
    """Features (n, F) float32 and classes (n,) int64 from 0 to 9: to learn from, and to test on."""

    bank: torch.Tensor
    bank_labels: torch.Tensor
    queries: torch.Tensor
    query_labels: torch.Tensor


def _split(features: np.ndarray, labels: np.ndarray, bank_rows: int) -> Pixels:
    tensor, classes = torch.tensor(features, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64)
    return Pixels(tensor[:bank_rows], classes[:bank_rows], tensor[bank_rows:], classes[bank_rows:])


@pytest.fixture(scope="session")
def digits() -> Pixels:
    """1,797 digits of scikit-learn, 64 pixels each; some are 0 in all images."""
    return _split(*load_digits(return_X_y=True), 1400)


@pytest.fixture(scope="session")
def cifar10(shared_dir: Path) -> Pixels:
    """2,000 JPEGs of CIFAR-10's test images, each the mean colours of 4 x 4 blocks: 48 features."""
    file = pq.ParquetFile(shared_dir / "data/cifar10_jpeg/test-00000-of-00001.parquet")
    table = file.read_row_groups([0, 1], columns=["image", "label"])
    images = np.stack([decode_rgb(image, pixels_max=1024) for image in table["image"].to_pylist()])
    side = images.shape[1] // BLOCK
    blocks = images.reshape(len(images), side, BLOCK, side, BLOCK, 3).mean(axis=(2, 4))
    return _split(blocks.reshape(len(images), -1), table["label"].to_numpy(), 1200)


@pytest.fixture(scope="session", params=["digits", "cifar10"])
def pixels(request: pytest.FixtureRequest) -> Pixels:
    """Both sets, one after the other; the second is skipped without the shared reference folder."""
    return request.getfixturevalue(request.param)
