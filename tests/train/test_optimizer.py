"""Which parameters decay, what the schedules give at each step, and that both optimizers resume exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from syn2co_ray.spec.train import OptimizerSpec
from syn2co_ray.train import trainer as trainer_module
from syn2co_ray.train.checkpoint import optimizer_tensors, restore_optimizer
from syn2co_ray.train.optimizer import Schedule, build_optimizer, parameter_groups

from ..golden_vectors import GoldenEntry, golden_entries
from .local_run import local_loop, prepared

NUMBER = r"[\d.e+-]+"
PUBLISHED = rf"lr_(?P<decay>cosine|linear|step)_E(?P<epochs>\d+)_W(?P<warmup>\d+)_n(?P<steps>\d+)_base(?P<base>{NUMBER})_warm(?P<start>{NUMBER})_min(?P<low>{NUMBER})"


def schedule(spec: OptimizerSpec, steps_per_epoch: int, epochs: int, **more: Any) -> Schedule:
    """A schedule without scaling by the batch, unless `images_per_step_global` says otherwise."""
    images = {"images_per_step_global": spec.images_per_step_of_base_rate}
    return Schedule(spec, steps_per_epoch, steps_per_epoch * epochs, **{**images, **more})


def published(entry: GoldenEntry, **more: Any) -> Schedule:
    """The recorded schedule; in that code a step is a third of the run, and a line ends at a hundredth."""
    decay, base = entry.named["decay"], entry.number("base")
    spec = OptimizerSpec(
        decay=None if decay == "cosine" else decay,
        decay_every_epochs=max(1, entry.count("epochs") // 3) if decay == "step" else None,
        learning_rate_base=base,
        learning_rate_warmup_base=entry.number("start"),
        learning_rate_min_base=0.01 * base if decay == "linear" else entry.number("low"),
        warmup_epochs=entry.number("warmup"),
    )
    return schedule(spec, entry.count("steps"), entry.count("epochs"), **more)


@pytest.mark.parametrize("entry", golden_entries("schedules_*.npz", f"{PUBLISHED}_value"))
def test_rate_of_a_step_equals_the_published_schedule(entry):
    ours = published(entry)
    got = [ours.learning_rate(step) for step in range(len(entry.value))]
    np.testing.assert_allclose(got, entry.value, rtol=1e-12)


@pytest.mark.parametrize("entry", golden_entries("schedules_*.npz", f"{PUBLISHED}_used"))
def test_one_step_late_equals_the_rate_that_the_published_loop_used(entry):
    late, ours = published(entry, steps_late=1), published(entry)
    steps = range(len(entry.value))
    np.testing.assert_allclose([late.learning_rate(step) for step in steps], entry.value, rtol=1e-12)
    assert not np.allclose([ours.learning_rate(step) for step in steps], entry.value, rtol=1e-3)


@pytest.mark.parametrize("entry", golden_entries("schedules_*.npz", "lr_synco_v1_cos_per_epoch"))
def test_rate_by_epoch_equals_published_synco(entry):
    base, epochs = entry.file["lr_synco_v1_base_epochs"]
    spec = OptimizerSpec(
        name="sgd",
        learning_rate_base=float(base),
        learning_rate_min_base=0,
        warmup_epochs=0,
        schedule_every="epoch",
    )
    ours = schedule(spec, 7, int(epochs))
    for first in (0, 3, 6):
        got = [ours.learning_rate(7 * epoch + first) for epoch in range(int(epochs))]
        np.testing.assert_allclose(got, entry.value, rtol=1e-12)


def test_rates_scale_with_the_global_batch():
    spec = OptimizerSpec(learning_rate_base=1e-3, images_per_step_of_base_rate=512, warmup_epochs=2)
    plain, scaled = schedule(spec, 5, 8), schedule(spec, 5, 8, images_per_step_global=1536)
    for step in (0, 4, 10, 25, 39):
        assert scaled.learning_rate(step) == pytest.approx(3 * plain.learning_rate(step), rel=1e-12)


def test_a_cosine_that_starts_after_the_warmup_falls_from_the_peak_to_the_minimum():
    spec = OptimizerSpec(
        learning_rate_base=1.0,
        learning_rate_warmup_base=0,
        learning_rate_min_base=0.2,
        warmup_epochs=2,
        cosine_includes_warmup=False,
    )
    after, during = (
        schedule(spec, 10, 12),
        schedule(spec.model_copy(update={"cosine_includes_warmup": True}), 10, 12),
    )
    assert [after.learning_rate(step) for step in (0, 10, 20)] == pytest.approx([0, 0.5, 1])
    # Half of the 100 steps that remain, and their end.
    assert [after.learning_rate(step) for step in (70, 120)] == pytest.approx([0.6, 0.2])
    assert during.learning_rate(20) < 1
    assert during.learning_rate(60) == pytest.approx(0.6)


def test_by_epoch_a_step_has_the_values_of_its_epochs_first_step():
    spec = OptimizerSpec(warmup_epochs=2, weight_decay=0.04, weight_decay_end=0.4)
    each_step = schedule(spec, 5, 6)
    each_epoch = schedule(spec.model_copy(update={"schedule_every": "epoch"}), 5, 6)
    for step in range(30):
        assert each_epoch.learning_rate(step) == each_step.learning_rate(step // 5 * 5)
        assert each_epoch.weight_decay(step) == each_step.weight_decay(step // 5 * 5)


def test_weight_decay_rises_by_a_cosine_for_the_decayed_group_only():
    spec = OptimizerSpec(weight_decay=0.04, weight_decay_end=0.4)
    ours, model = schedule(spec, 10, 10), nn.Linear(3, 2)
    optimizer = build_optimizer(model, spec)
    seen = []
    for step in (0, 50, 100):
        rate = ours.apply(optimizer, step)
        assert [group["lr"] for group in optimizer.param_groups] == [rate, rate]
        seen.append([group["weight_decay"] for group in optimizer.param_groups])
    assert np.allclose(seen, [[0.04, 0], [0.22, 0], [0.4, 0]])
    assert schedule(OptimizerSpec(weight_decay=0.3), 10, 10).weight_decay(77) == 0.3


def decayed_names(model: nn.Module, which: str) -> set[str]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, OptimizerSpec(weight_decay_of=which))
    return {names[p] for group in groups if group["decays"] for p in group["params"]}  # type: ignore[attr-defined]


def shell(parameters: list[tuple[str, list[int]]], frozen: list[tuple[str, list[int]]]) -> nn.Module:
    """A module without weights that has these parameters by dotted name and shape."""
    root = nn.Module()
    for name, shape in [*parameters, *frozen]:
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        value = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=[name, shape] not in frozen)
        place.register_parameter(last, value)
    return root


@pytest.mark.parametrize("entry", golden_entries("weight_decay_*.json", ".*"))
def test_matrices_and_tokens_are_what_the_published_code_decays(entry):
    """Their own ViT and Swin, by name and shape; what is frozen is in no group."""
    record = entry.value
    model = shell(record["decay"] + record["no_decay"], record["frozen_online"])
    assert decayed_names(model, "matrices_and_tokens") == {name for name, _ in record["decay"]}
    groups = parameter_groups(model, OptimizerSpec(weight_decay_of="matrices_and_tokens"))
    sizes = [sum(p.numel() for p in group["params"]) for group in groups]  # type: ignore[attr-defined]
    assert sizes == [record["numel"]["decay"], record["numel"]["no_decay"]]


class Wrapped(nn.Module):
    """A framework as far as the optimizer is concerned: a backbone below another name, and a head."""

    def __init__(self, backbone: str, **options: Any) -> None:
        super().__init__()
        self.encoder = timm.create_model(backbone, num_classes=0, **options)
        self.projector = nn.Linear(8, 8)


@pytest.mark.parametrize(
    ("backbone", "options", "exempt"),
    [
        ("deit_tiny_patch16_224", {"depth": 2}, {"cls_token", "pos_embed"}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1)},
         {f"layers.{layer}.blocks.0.attn.relative_position_bias_table" for layer in (0, 1)}),
        ("resnet18", {}, set()),
    ],
)  # fmt: skip
def test_what_the_backbone_exempts_decays_only_when_asked(backbone, options, exempt):
    model = Wrapped(backbone, **options)
    shapes = dict(model.named_parameters())
    matrices = decayed_names(model, "matrices")
    assert {name for name in matrices if shapes[name].ndim < 2 or name.endswith(".bias")} == set()
    assert "projector.weight" in matrices
    assert decayed_names(model, "matrices_and_tokens") - matrices == {f"encoder.{name}" for name in exempt}
    assert decayed_names(model, "all") == set(shapes)


def quadratic_steps(optimizer: torch.optim.Optimizer, model: nn.Module, ours: Schedule, steps: range) -> None:
    for step in steps:
        ours.apply(optimizer, step)
        optimizer.zero_grad(set_to_none=True)
        (model(torch.full((1, 3), 1.0 + step)) ** 2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_restored_optimizer_continues_as_if_never_stopped(name):
    spec = OptimizerSpec(name=name, learning_rate_base=0.01, warmup_epochs=1)
    ours = schedule(spec, 4, 4)
    torch.manual_seed(0)
    model, copy = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = build_optimizer(model, spec)
    quadratic_steps(optimizer, model, ours, range(6))
    copy.load_state_dict(model.state_dict())
    resumed = build_optimizer(copy, spec)
    restore_optimizer(copy, resumed, optimizer_tensors(model, optimizer))
    quadratic_steps(optimizer, model, ours, range(6, 16))
    quadratic_steps(resumed, copy, ours, range(6, 16))
    assert torch.equal(model.weight, copy.weight)
    assert torch.equal(model.bias, copy.bias)


def test_an_empty_momentum_buffer_is_left_out_of_a_checkpoint():
    model, spec = nn.Linear(3, 2), OptimizerSpec(name="sgd")
    optimizer = build_optimizer(model, spec)
    assert optimizer_tensors(model, optimizer) == {}
    optimizer.state[model.weight]["momentum_buffer"] = None
    optimizer.state[model.bias]["momentum_buffer"] = torch.ones(2)
    tensors = optimizer_tensors(model, optimizer)
    assert list(tensors) == ["bias/momentum_buffer"]
    again = build_optimizer(model, spec)
    restore_optimizer(model, again, tensors)
    quadratic_steps(again, model, schedule(spec, 4, 4), range(1))


SGD = (
    "train.optimizer={name: sgd, learning_rate_base: 0.3, images_per_step_of_base_rate: 32, warmup_epochs: 0, "
    "learning_rate_min_base: 0, weight_decay: 1e-4, weight_decay_of: all, schedule_every: epoch, "
    "gradient_clip_norm: null}"
)


def test_a_run_with_sgd_and_no_clipping_learns_and_resumes_exactly(tmp_path: Path):
    straight = local_loop(prepared(tmp_path / "straight", SGD))
    assert straight.run_to_end().status == "finished"
    local_loop(prepared(tmp_path / "stopped", SGD), stop_before_step=7).run_to_end()
    second = local_loop(prepared(tmp_path / "stopped", SGD))
    assert second.run_to_end().resumed_from_steps == [7]
    losses: dict[int, float] = straight.losses  # type: ignore[attr-defined]
    assert second.losses == {step: losses[step] for step in range(8, 21)}  # type: ignore[attr-defined]
    assert losses[20] < losses[1]


COMPAT = (
    "method.compat=synco_v2",
    "method.compat_world_size=2",
    "method.output_features=256",
    "method.queue_size_features=128",
    "method.negatives={hardest: 128, active_epochs: [1, 3]}",
    "train.optimizer={learning_rate_base: 0.02, warmup_epochs: 1, weight_decay_of: matrices_and_tokens}",
)


def test_a_run_with_compat_has_the_published_rates_and_clock(tmp_path: Path, monkeypatch):
    """5 steps of 32 of 160 images an epoch, as of 2 GPUs: the published epoch 1 begins at step 9 (from 0)."""
    monkeypatch.setattr(trainer_module, "TELEMETRY_EVERY_STEPS", 1)
    rows: list[dict[str, Any]] = []
    loop = local_loop(prepared(tmp_path, *COMPAT))
    loop.context.show = lambda row: rows.append(row) if "loss" in row else None
    loop.run_to_end()
    ours = loop.trainer.schedule
    assert [row["learning_rate"] for row in rows] == [ours.learning_rate(step) for step in range(20)]
    assert rows[0]["learning_rate"] == rows[1]["learning_rate"] < rows[2]["learning_rate"]
    active = [any(name.startswith("negatives/") for name in row["stats"]) for row in rows]
    assert active == [step >= 9 for step in range(20)]
