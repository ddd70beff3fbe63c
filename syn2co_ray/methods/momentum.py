"""The target network: an exponential moving average of the online network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def momentum_at(step: int, total_steps: int, base: float) -> float:
    """Momentum of the target update at the start of a step.

        m_k = 1 - (1 - base) (cos(pi k / K) + 1) / 2        BYOL (arXiv 2006.07733), MoBY (2105.04553)

    Args:
        step: k, from 0; beyond K the value stays 1.
        total_steps: K >= 1.
        base: momentum at step 0, in [0, 1].
    """
    progress = min(step / total_steps, 1.0)
    return 1.0 - (1.0 - base) * (math.cos(math.pi * progress) + 1.0) / 2.0


class MomentumUpdate(nn.Module):
    """Moves target parameters towards the online ones, once a step number.

    The buffer `last_step` (int64, -1 before the first) is state: a forward repeated for the same step,
    also after a checkpoint was loaded, does not move the target a second time.
    """

    last_step: Tensor

    def __init__(self, base: float, *, rises: bool = True) -> None:
        """Momentum `base` at step 0; it rises to 1 by a cosine, or stays (MoCo v2) without `rises`."""
        super().__init__()
        self.base, self.rises = base, rises
        self.register_buffer("last_step", torch.tensor(-1, dtype=torch.int64))
        # A host copy, so that a step does not wait for the device; None: read the buffer.
        self._last_step: int | None = None
        self.register_load_state_dict_post_hook(_forget_host_copy)

    @torch.no_grad()
    def advance(
        self, target: Iterable[Tensor], online: Iterable[Tensor], step: int, total_steps: int
    ) -> float:
        """target <- m target + (1 - m) online, in place, with m of this step; returns m.

        Only parameters are averaged; the target's batch-norm statistics are its own (as in MoBY).
        """
        momentum = momentum_at(step, total_steps, self.base) if self.rises else self.base
        if self._last_step is None:
            self._last_step = int(self.last_step)
        if self._last_step != step:
            torch._foreach_lerp_(list(target), list(online), 1.0 - momentum)
            self._last_step = step
            self.last_step.fill_(step)
        return momentum


def _forget_host_copy(module: nn.Module, _: Any) -> None:
    assert isinstance(module, MomentumUpdate)
    module._last_step = None
