"""Real photos for the room's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_sample_images

from syn2co_ray.data.decode import decode_rgb


@pytest.fixture(scope="package", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Small batches are slower on several threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Scikit-learn's two photos (a temple, a flower), as parts of 375 x 500 and 420 x 300 pixels."""
    temple, flower = load_sample_images().images
    return [temple[40:415, 60:560].copy(), flower[:420, 150:450].copy()]


@pytest.fixture(scope="session")
def caltech_photos(shared_dir: Path) -> list[np.ndarray]:
    """Twelve photos of different classes, colour and grey, 200 to 500 pixels."""
    path = shared_dir / "data" / "caltech101" / "test-00000-of-00001.parquet"
    rows = pq.ParquetFile(path).read_row_group(0, columns=["image"])["image"].to_pylist()
    chosen = rows[:: max(1, len(rows) // 12)][:12]
    assert len(chosen) == 12
    return [decode_rgb(row, pixels_max=10_000_000) for row in chosen]
