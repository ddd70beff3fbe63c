"""Projector and predictor."""

from __future__ import annotations

from torch import nn

from .batch_norm import GlobalBatchNorm


def mlp_head(features_in: int, features_hidden: int, features_out: int) -> nn.Sequential:
    """Two-layer perceptron (n, features_in) -> (n, features_out): Linear, batch norm, ReLU, Linear.

    MoBY section 3.1 (arXiv 2105.04553), projector and predictor alike; after BYOL (2006.07733).
    The batch norm takes its statistics from the global batch.
    """
    return nn.Sequential(
        nn.Linear(features_in, features_hidden),
        GlobalBatchNorm(features_hidden),
        nn.ReLU(inplace=True),
        nn.Linear(features_hidden, features_out),
    )
