"""The switches change no result: loss, gradients and state after two steps, beside a plain run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from syn2co_ray.methods import Method, StepContext, build_method
from syn2co_ray.methods.execution import (
    compile_encoders,
    encode_in_parts,
    recompute_blocks,
    use_channels_last,
)
from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.method import MethodSpec

MakeStep = Callable[..., StepContext]
Switch = Callable[[Method], None]

BACKBONES: dict[str, dict[str, Any]] = {
    "vit": {
        "backbone": "vit_tiny_patch16_224",
        "patch_size": 8,
        "backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    },
    "swin": {
        "backbone": "swin_tiny_patch4_window7_224",
        "patch_size": 2,
        "backbone_options": {"embed_dim": 16},
    },
    "resnet": {"backbone": "test_resnet"},
}
SWITCHES: dict[str, Switch] = {
    "channels_last": use_channels_last,
    "gradient_checkpointing": recompute_blocks,
    "parts": lambda method: encode_in_parts(method, 3),
    "parts_of_blocks": lambda method: (recompute_blocks(method), encode_in_parts(method, 3))[1],
    "compile": lambda method: compile_encoders(method, backend="aot_eager"),
    "compile_parts": lambda method: (
        compile_encoders(method, backend="aot_eager"),
        encode_in_parts(method, 3),
    )[1],
    "compile_blocks": lambda method: (
        compile_encoders(method, by_block=True, backend="aot_eager"),
        recompute_blocks(method),
    )[1],
    "compile_parts_of_blocks": lambda method: (
        compile_encoders(method, by_block=True, backend="aot_eager"),
        recompute_blocks(method),
        encode_in_parts(method, 3),
    )[2],
}


def make(backbone: str) -> Method:
    fields = {
        "framework": "moby",
        **BACKBONES[backbone],
        "drop_path_online": 0.4,
        "drop_path_target": 0.2,
        "hidden_features": 24,
        "output_features": 12,
        "queue_size_features": 40,
    }
    spec: Any = TypeAdapter(MethodSpec).validate_python(fields)
    return build_method(spec, 32, 0)


def two_steps(method: Method, views: list[Tensor], step_at: MakeStep) -> dict[str, Tensor]:
    """In float64: what is left of float error is far below any real difference."""
    method, views = method.double(), [view.double() for view in views]
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    found: dict[str, Tensor] = {}
    for number in range(2):
        optimizer.zero_grad()
        output = method(views, step_at(number))
        output.loss.backward()
        found[f"loss/{number}"] = output.loss.detach()
        gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
        found |= {f"gradient/{number}/{name}": grad.clone() for name, grad in gradients.items()}
        optimizer.step()
        method.commit(step_at(number))
    return found | {f"state/{name}": value.clone() for name, value in method.state_dict().items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].contiguous(), value, rtol=1e-7, atol=1e-9, msg=name)


# Compiling every block of a Swin or a ResNet takes minutes, and is the same code.
CASES = [(b, s) for b in BACKBONES for s in SWITCHES if b == "vit" or not s.startswith("compile_")]


@pytest.mark.parametrize(("backbone", "switch"), CASES)
def test_a_switch_changes_no_result(
    backbone: str, switch: str, views: list[Tensor], step_at: MakeStep
) -> None:
    torch._dynamo.reset()
    method = make(backbone)
    if backbone == "resnet" and "parts" in switch:
        with pytest.raises(SpecError, match="ResNet has batch norms"):
            SWITCHES[switch](method)
        return
    SWITCHES[switch](method)
    same(two_steps(method, views, step_at), two_steps(make(backbone), views, step_at))


def test_recomputing_keeps_less_for_backward(views: list[Tensor], step_at: MakeStep) -> None:
    def kept(method: Method) -> int:
        count = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            method(views, step_at())
        return count

    plain = kept(make("vit"))
    for switch in ("gradient_checkpointing", "parts"):
        method = make("vit")
        SWITCHES[switch](method)
        assert kept(method) < 0.6 * plain


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_by_inductor_changes_no_result(views: list[Tensor], step_at: MakeStep) -> None:
    torch._dynamo.reset()
    method = make("vit")
    compile_encoders(method)
    same(two_steps(method, views, step_at), two_steps(make("vit"), views, step_at))


def test_a_network_without_blocks_is_refused() -> None:
    method = make("vit")
    method.encoder = torch.nn.Linear(2, 2)
    with pytest.raises(SpecError, match="Linear has no blocks to run again"):
        recompute_blocks(method)
