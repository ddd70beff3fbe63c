"""Stochastic depth whose draws belong to rows of the global batch (see draws.py).

timm's DropPath asks torch's global generator, so its masks depend on the number of ranks. Here the
caller hands over one uniform number per row and layer before each forward pass:

    y = x * 1[u >= p] / (1 - p)        Huang et al., arXiv 1603.09382; scaled as timm does
"""

from __future__ import annotations

from timm.layers import DropPath
from torch import Tensor, nn

from .draws import RowDraws


class RowDropPath(nn.Module):
    """Drops a residual branch for a row with probability `rate`; the identity in eval mode."""

    def __init__(self, rate: float, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.rate = rate
        self.scale_by_keep = scale_by_keep
        self.uniform: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n, ...)."""
        if not self.training or self.rate == 0.0:
            return x
        if self.uniform is None or self.uniform.shape[0] != x.shape[0]:
            raise RuntimeError(
                f"drop path has no draws for these {x.shape[0]} rows: call draw_drop_path before a forward "
                "pass in training mode, or put the encoder into eval mode"
            )
        keep = (self.uniform >= self.rate).to(x.dtype)
        if self.scale_by_keep:
            keep = keep / (1.0 - self.rate)
        return x * keep.view(-1, *[1] * (x.ndim - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def replace_drop_path(network: nn.Module) -> None:
    """Swap every timm DropPath inside for a RowDropPath of the same rate, in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is DropPath:
                setattr(module, name, RowDropPath(child.drop_prob, child.scale_by_keep))


def draw_drop_path(network: nn.Module, name: str, draws: RowDraws) -> None:
    """Give each RowDropPath of the network its draws for the next forward pass.

    Args:
        network: holds the layers; without any, nothing is drawn.
        name: what the draws are for, such as "drop_path/online/view_1".
        draws: source, for the rows of that forward pass.
    """
    layers = [module for module in network.modules() if isinstance(module, RowDropPath)]
    if not layers:
        return
    uniform = draws.uniform(name, len(layers))
    for index, layer in enumerate(layers):
        layer.uniform = uniform[:, index]
