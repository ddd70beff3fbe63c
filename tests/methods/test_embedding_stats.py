from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from syn2co_ray.methods.embedding_stats import SPREAD_MIN, embedding_stats


def unit_rows(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)))


def test_values_equal_the_formulas_written_out_in_numpy():
    online, target = unit_rows(12, 8), unit_rows(12, 8, seed=1)
    stats = {name: value.item() for name, value in embedding_stats(online, target).items()}
    x, y = online.double().numpy(), target.double().numpy()
    p = np.linalg.svd(x, compute_uv=False)
    p /= p.sum()
    rank = np.exp(-(p * np.log(p)).sum())
    pairs = [((x[i] - x[j]) ** 2).sum() for i in range(12) for j in range(i)]
    assert stats["embedding/rankme"] == pytest.approx(rank, rel=1e-4)
    assert stats["embedding/spread"] == pytest.approx((rank - 1) / 7, rel=1e-4)
    assert stats["embedding/alignment"] == pytest.approx(((x - y) ** 2).sum(1).mean(), rel=1e-4)
    assert stats["embedding/uniformity"] == pytest.approx(
        np.log(np.mean(np.exp(-2 * np.array(pairs)))), rel=1e-4
    )


def test_extremes():
    one = unit_rows(1, 64).expand(64, 64)
    collapsed = embedding_stats(one, one)
    assert collapsed["embedding/rankme"].item() == pytest.approx(1, abs=0.01)
    assert collapsed["embedding/spread"] < SPREAD_MIN
    assert collapsed["embedding/alignment"] == 0
    assert collapsed["embedding/uniformity"].item() == pytest.approx(0, abs=1e-5)
    whole = embedding_stats(torch.eye(64), torch.eye(64))
    assert whole["embedding/spread"].item() == pytest.approx(1, rel=1e-4)
    assert embedding_stats(unit_rows(64, 128), unit_rows(64, 128))["embedding/spread"] > 10 * SPREAD_MIN
