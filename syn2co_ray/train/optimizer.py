"""AdamW groups and the learning-rate schedule of the MoBY recipe."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..spec.train import OptimizerSpec


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups: matrices decay, 1-D parameters and biases do not."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (free if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, spec: OptimizerSpec) -> torch.optim.AdamW:
    """AdamW whose rate is set by `learning_rate` before every step."""
    groups = parameter_groups(model, spec.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=spec.betas, eps=spec.eps)


def learning_rate(
    spec: OptimizerSpec, *, step: int, steps_per_epoch: int, total_steps: int, images_per_step_global: int
) -> float:
    """Rate of global step `step` (from 0): linear warm-up, then cosine to the minimum.

    All three rates of the spec are scaled by images_per_step_global / images_per_step_of_base_rate. The
    cosine's clock includes the warm-up (as in the MoBY recipe), so the rate falls slightly where it ends.
    """
    scale = images_per_step_global / spec.images_per_step_of_base_rate
    peak, start, low = (
        scale * rate
        for rate in (spec.learning_rate_base, spec.learning_rate_warmup_base, spec.learning_rate_min_base)
    )
    warmup_steps = spec.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        return start + (peak - start) * step / warmup_steps
    return low + (peak - low) * (1 + math.cos(math.pi * step / total_steps)) / 2
