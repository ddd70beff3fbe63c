"""Batch norm over the global batch, on CPU and GPU.

Law: N ranks normalise by the statistics of the joined batch, as one rank does. torch's SyncBatchNorm
does that on GPUs only, and DDP refuses a CPU module that holds one; here its kernel serves on GPUs and
all-reduced sums elsewhere. Parameters and buffers have BatchNorm's names, so state dicts fit both ways.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from syn2co_ray.spec.errors import Fault, SpecError

from .collective import ranks_in


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; the gradient is summed over ranks too, since every rank's loss sees the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        grad = grad_outputs[0].clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


def _sum_over_ranks(x: Tensor, group: ProcessGroup | None) -> Tensor:
    total: Tensor = _AllReduceSum.apply(x, group)
    return total


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm of (n, C) or (n, C, ...) with the statistics of all ranks' rows (of any number each).

    In eval mode, or when one rank holds the batch, it is plain BatchNorm. The ranks are those of
    `process_group` (see `set_process_group`). Half types are normalised in float32.
    """

    process_group: ProcessGroup | None = None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm needs (n, C, ...), got {input.ndim} dimensions")

    def forward(self, x: Tensor) -> Tensor:
        ranks = ranks_in(self.process_group)
        if not self.training or ranks == 1:
            return super().forward(x)
        self._check_input_dim(x)
        if x.device.type == "cuda":
            return self._forward_fused(x, ranks)
        return self._forward_all_reduced(x)

    def _forward_fused(self, x: Tensor, ranks: int) -> Tensor:
        """torch's own kernel, called as nn.SyncBatchNorm calls it."""
        group = self.process_group if self.process_group is not None else dist.group.WORLD
        running = (self.running_mean, self.running_var)
        normalised: Tensor = SyncBatchNorm.apply(
            x, self.weight, self.bias, *running, self.eps, self._tracking_factor(), group, ranks
        )
        return normalised

    def _forward_all_reduced(self, x: Tensor) -> Tensor:
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        group = self.process_group
        local_count = values.new_tensor([values.numel() / values.shape[1]])
        # Two passes (mean, then squared deviations): E[x^2] - E[x]^2 would cancel in float32.
        sums = _sum_over_ranks(torch.cat([values.sum(axes), local_count]), group)
        count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = values - mean.view(shape)
        variance = _sum_over_ranks(centred.square().sum(axes), group) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        normalised = centred * torch.rsqrt(variance.view(shape) + self.eps)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    def _tracking_factor(self) -> float:
        """Weight of this batch in the running statistics; counts the batch."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.momentum is None:
            return 1.0 / float(self.num_batches_tracked) if self.num_batches_tracked is not None else 0.0
        return self.momentum

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        factor = self._tracking_factor()
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
            self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), factor)


class GlobalBatchNormAct(GlobalBatchNorm):
    """GlobalBatchNorm in place of timm's fused BatchNormAct2d: norm, drop, activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.act(self.drop(super().forward(x)))
        return normalised


def _global_version(norm: _BatchNorm, where: str) -> GlobalBatchNorm:
    """The same layer (parameters and buffers shared) with global statistics."""
    if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        kind = GlobalBatchNorm
    elif type(norm) is BatchNormAct2d:
        kind = GlobalBatchNormAct
    else:
        raise SpecError(
            [Fault(where, f"batch norm of type {type(norm).__name__}", "torch's or timm's plain batch norm")]
        )
    new = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(new, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(new, name, buffer)
    for name, child in norm.named_children():
        setattr(new, name, child)
    return new


def replace_batch_norm(network: nn.Module, where: str) -> None:
    """Swap every batch norm inside for its global version, in place.

    Raises:
        SpecError: at `where`, for a batch norm of a type with a forward of its own.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, GlobalBatchNorm):
                setattr(module, name, _global_version(child, where))


def set_process_group(network: nn.Module, group: ProcessGroup | None) -> None:
    """Name the ranks over which the network's batch norms take their statistics."""
    for module in network.modules():
        if isinstance(module, GlobalBatchNorm):
            module.process_group = group
