"""Projectors and predictors: multi-layer perceptrons (n, features_in) -> (n, features_out)."""

from __future__ import annotations

from torch import nn

from .batch_norm import GlobalBatchNorm


def mlp_head(
    features_in: int,
    features_hidden: int,
    features_out: int,
    *,
    layers: int = 2,
    hidden_norm: bool = True,
    output_norm: bool = False,
) -> nn.Sequential:
    """`layers` linear layers; batch norm and ReLU after each but the last.

    | head | layers | hidden_norm | output_norm | source |
    |---|---|---|---|---|
    | MoBY, BYOL: projector, predictor | 2 | yes | no | arXiv 2105.04553 section 3.1; 2006.07733 |
    | MoCo v2: projector | 2 | no | no | 2003.04297 |
    | MoCo v3: projector (ViT; its code has 2 layers for ResNets) | 3 | yes | yes | 2104.02057 section 4 |
    | MoCo v3: predictor | 2 | yes | yes | the same |

    Batch norms take their statistics from the global batch. The one after the last layer has no weight and
    no bias.
    """
    widths = [features_in, *[features_hidden] * (layers - 1), features_out]
    parts: list[nn.Module] = []
    for layer in range(layers):
        last = layer == layers - 1
        parts.append(nn.Linear(widths[layer], widths[layer + 1]))
        if not last:
            parts += [GlobalBatchNorm(features_hidden)] if hidden_norm else []
            parts.append(nn.ReLU(inplace=True))
        elif output_norm:
            parts.append(GlobalBatchNorm(features_out, affine=False))
    return nn.Sequential(*parts)
