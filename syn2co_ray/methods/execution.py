"""How the encoders are executed: switches that cost or save time and memory, and change no result.

They go onto a finished method, in place; names in the state dict stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from syn2co_ray.spec.errors import Fault, SpecError

from .batch_norm import GlobalBatchNorm
from .contract import Method
from .drop_path import RowDropPath

BLOCK_SEQUENCES = ("blocks", "layer1", "layer2", "layer3", "layer4")
"""What timm's families call their sequences of blocks: ViT, Swin, ConvNeXt, EfficientNet ...; ResNets."""


def compile_encoders(method: Method, *, by_block: bool = False, backend: str = "inductor") -> None:
    """torch.compile of the online and the target encoder; they compile at their first pass.

    Before `recompute_blocks` and `encode_in_parts`, whose own work cannot be compiled.

    Args:
        method: whose encoders.
        by_block: compile their blocks, for `recompute_blocks`, and not what is around them.
        backend: torch.compile's.
    """
    for encoder in _encoders(method):
        parts = _blocks(encoder) if by_block else [encoder]
        # Blocks of one class share a limit, and their drop path rates make them different programs.
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, 4 * len(parts))
        for part in parts:
            part.forward = torch.compile(part.forward, backend=backend)


def use_channels_last(method: Method) -> None:
    """Weights of convolutions with channels as the innermost axis, which GPUs are fast with."""
    for encoder in _encoders(method):
        encoder.to(memory_format=torch.channels_last)


def recompute_blocks(method: Method) -> None:
    """Gradient checkpointing: blocks of the online encoder keep their input alone and run again in backward.

    timm's own switch is not enough: by the time of backward another view has left its draws in the drop path
    layers, and batch norms would count the batch twice.

    Raises:
        SpecError: a backbone without a known sequence of blocks.
    """
    for block in _blocks(method.encoder):
        block.forward = _recomputing(block)


def encode_in_parts(method: Method, images_max: int) -> None:
    """Encoders take at most so many images at once, and parts of the online one run again in backward.

    The memory of a pass is that of one part, at any batch: heads and loss still see the whole of it, so that
    this equals no gradient accumulation, but the undivided step.

    Raises:
        SpecError: a backbone with batch norms, whose statistics need all images at once.
    """
    for encoder in _encoders(method):
        if any(isinstance(module, GlobalBatchNorm) for module in encoder.modules()):
            got = f"{images_max}, but {type(encoder).__name__} has batch norms"
            step = "leave it out; train.gradient_checkpointing saves memory too"
            raise SpecError(
                [Fault("train.images_per_pass_max", got, "backbones without, such as ViTs", step)]
            )
        encoder.forward = _in_parts(encoder, images_max)


def _encoders(method: Method) -> Iterator[nn.Module]:
    yield method.encoder
    target = getattr(method, "target_encoder", None)
    if isinstance(target, nn.Module):
        yield target


def _blocks(encoder: nn.Module) -> list[nn.Module]:
    blocks = [
        block
        for name, module in encoder.named_modules()
        if name.rpartition(".")[2] in BLOCK_SEQUENCES and isinstance(module, nn.Sequential | nn.ModuleList)
        for block in module
    ]
    if not blocks:
        got = f"true, but {type(encoder).__name__} has no blocks to run again"
        allowed = "true for ViT, Swin, ResNet, ConvNeXt and their like"
        raise SpecError([Fault("train.gradient_checkpointing", got, allowed, "leave it out")])
    return blocks


def _recomputing(block: nn.Module) -> Callable[..., Any]:
    forward = block.forward
    layers = [module for module in block.modules() if isinstance(module, RowDropPath)]
    norms = [module for module in block.modules() if isinstance(module, GlobalBatchNorm)]

    def recomputing(*inputs: Any, **options: Any) -> Any:
        if not (torch.is_grad_enabled() and block.training):
            return forward(*inputs, **options)
        draws = [layer.uniform for layer in layers]

        def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
            return nullcontext(), _as_in_forward(layers, draws, norms)

        return checkpoint(
            forward, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **options
        )

    return recomputing


def _in_parts(encoder: nn.Module, images_max: int) -> Callable[[torch.Tensor], torch.Tensor]:
    forward = encoder.forward
    layers = [module for module in encoder.modules() if isinstance(module, RowDropPath)]

    def in_parts(images: torch.Tensor) -> torch.Tensor:
        if len(images) <= images_max:
            return forward(images)
        whole = [layer.uniform for layer in layers]
        features = []
        for first in range(0, len(images), images_max):
            rows = slice(first, first + images_max)
            draws = [None if uniform is None else uniform[rows] for uniform in whole]
            for layer, uniform in zip(layers, draws, strict=True):
                layer.uniform = uniform
            features.append(_part(forward, images[rows], layers, draws))
        for layer, uniform in zip(layers, whole, strict=True):
            layer.uniform = uniform
        return torch.cat(features)

    return in_parts


def _part(
    forward: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    layers: list[RowDropPath],
    draws: list[torch.Tensor | None],
) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return forward(images)

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _as_in_forward(layers, draws, [])

    return checkpoint(forward, images, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def _as_in_forward(
    layers: list[RowDropPath], draws: list[torch.Tensor | None], norms: list[GlobalBatchNorm]
) -> Iterator[None]:
    """The draws of that forward pass; running statistics are put back afterwards."""
    statistics = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
    present = [layer.uniform for layer in layers], [buffer.clone() for buffer in statistics]
    for layer, uniform in zip(layers, draws, strict=True):
        layer.uniform = uniform
    try:
        yield
    finally:
        for layer, uniform in zip(layers, present[0], strict=True):
            layer.uniform = uniform
        with torch.no_grad():
            for buffer, before in zip(statistics, present[1], strict=True):
                buffer.copy_(before)
