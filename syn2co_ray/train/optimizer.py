"""The optimizer: which parameters decay, and the schedules of learning rate and weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..spec.train import OptimizerSpec


def parameter_groups(
    model: nn.Module, spec: OptimizerSpec, factors: Mapping[str, float] | None = None
) -> list[dict[str, object]]:
    """Trainable parameters, those that decay first; those of another learning rate in groups of their own.

    Each group says in `decays` which one it is, and in `factor` by what the schedule's rate is multiplied, so
    that a schedule finds it. What decays is `spec.weight_decay_of`.
    """
    exempt = set() if spec.weight_decay_of != "matrices" else set(_named_without_decay(model))
    members: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim > 1 and not name.endswith(".bias")
        decays = spec.weight_decay_of == "all" or (matrix and name not in exempt)
        factor = (factors or {}).get(name, 1.0)
        members.setdefault((decays, factor), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": spec.weight_decay if decays else 0.0,
            "decays": decays,
            "factor": factor,
        }
        for (decays, factor), parameters in sorted(members.items(), key=lambda item: not item[0][0])
    ]


def _named_without_decay(model: nn.Module) -> Iterator[str]:
    """Full names of what a timm backbone inside says should not decay: positions, tokens, bias tables."""
    for path, module in model.named_modules():
        names = getattr(module, "no_weight_decay", None)
        if callable(names):
            yield from (f"{path}.{name}" if path else name for name in names())


def build_optimizer(
    model: nn.Module, spec: OptimizerSpec, factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """AdamW or SGD over the trainable parameters; `Schedule.apply` sets its rates before each step.

    Args:
        model: holds the parameters.
        spec: section `train.optimizer`.
        factors: names of parameters -> factor on their learning rate; 1 for those left out.
    """
    groups = parameter_groups(model, spec, factors)
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=spec.sgd_momentum)
    return torch.optim.AdamW(groups, lr=0.0, betas=spec.betas, eps=spec.eps)


@dataclass(frozen=True)
class Schedule:
    """Learning rate and weight decay at every step of a run, as functions of the step alone.

    Warm-up: linear from `learning_rate_warmup_base`, reaching the peak at its end. Then, with p the part
    of the cosine's clock that has passed,

        rate = low + (peak - low) (1 + cos(pi p)) / 2

    With `cosine_includes_warmup` that clock starts with the run, so the rate falls a little where the
    warm-up ends (MoBY); otherwise it starts where the warm-up ends (MoCo v3, DINO). With `decay: linear` the
    rate falls in a straight line from the end of the warm-up, with `decay: step` it is
    peak * 0.1 ** (steps done // steps of decay_every_epochs). The three rates are scaled by
    images_per_step_global / images_per_step_of_base_rate. With `schedule_every: epoch` a step has the values
    of its epoch's first step.

    Attributes:
        spec: section `train.optimizer`.
        steps_per_epoch: optimizer steps of an epoch.
        total_steps: optimizer steps of the run.
        images_per_step_global: global batch.
        steps_late: how many steps the learning rate lags behind (see `methods.compat`).
    """

    spec: OptimizerSpec
    steps_per_epoch: int
    total_steps: int
    images_per_step_global: int
    steps_late: int = 0

    def learning_rate(self, step: int) -> float:
        """Rate of global step `step`, from 0."""
        scale = self.images_per_step_global / self.spec.images_per_step_of_base_rate
        peak = scale * self.spec.learning_rate_base
        start = scale * self.spec.learning_rate_warmup_base
        low = scale * self.spec.learning_rate_min_base
        warmup_steps = self.spec.warmup_epochs * self.steps_per_epoch
        at = self._on_the_clock(max(step - self.steps_late, 0))
        if at < warmup_steps:
            return start + (peak - start) * at / warmup_steps
        if self.spec.decay == "step":
            assert self.spec.decay_every_epochs is not None
            return peak * 0.1 ** (at // (self.spec.decay_every_epochs * self.steps_per_epoch))
        if self.spec.decay == "linear":
            return peak + (low - peak) * (at - warmup_steps) / (self.total_steps - warmup_steps)
        origin = 0.0 if self.spec.cosine_includes_warmup else warmup_steps
        return _cosine(peak, low, (at - origin) / (self.total_steps - origin))

    def weight_decay(self, step: int) -> float:
        """Decay of the decayed parameters at global step `step`: constant, or a cosine over the whole run."""
        if self.spec.weight_decay_end is None:
            return self.spec.weight_decay
        progress = self._on_the_clock(step) / self.total_steps
        return _cosine(self.spec.weight_decay, self.spec.weight_decay_end, progress)

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Give the optimizer its values for this step; returns the learning rate."""
        rate, decay = self.learning_rate(step), self.weight_decay(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
            if group["decays"]:
                group["weight_decay"] = decay
        return rate

    def _on_the_clock(self, step: int) -> int:
        if self.spec.schedule_every == "epoch":
            return step // self.steps_per_epoch * self.steps_per_epoch
        return step


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
