"""Whole steps, and a trajectory of twelve, against recorded runs of the published code.

In those runs the encoder is one linear layer, projector and predictor are identities, and every draw is
recorded. What was recorded in float64 is compared in both precisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from syn2co_ray.methods import StepContext
from syn2co_ray.methods.branches import Branches
from syn2co_ray.methods.byol import BYOL
from syn2co_ray.methods.compat import learning_rate_steps_late
from syn2co_ray.methods.draws import RowDraws
from syn2co_ray.methods.moby import MoBY
from syn2co_ray.methods.moco import MoCo
from syn2co_ray.methods.momentum import MomentumUpdate
from syn2co_ray.methods.negatives import HardestPool, synthesize
from syn2co_ray.methods.queue import FeatureQueue
from syn2co_ray.methods.queue_contrast import QueueContrast
from syn2co_ray.spec.method import MobySpec, MocoSpec
from syn2co_ray.spec.negatives import NEGATIVE_KINDS
from syn2co_ray.spec.train import OptimizerSpec
from syn2co_ray.train.optimizer import Schedule, build_optimizer

from ..golden_vectors import TOLERANCE, both_precisions


class Recorded(QueueContrast):
    """Draws are those of a recorded run; the logits of each direction are kept."""

    golden: Any
    prefixes: Mapping[str, str]
    """Purpose of a direction -> what its recorded draws begin with."""
    logits: dict[str, Tensor]
    """Purpose of a direction -> [q.k, q.Q, q.S of each kind], (n, 1 + K + M)."""

    def follow(self, golden: Any, prefixes: Mapping[str, str]) -> None:
        self.golden, self.prefixes, self.logits = golden, prefixes, {}

    def draw(self, purpose: str, pool: HardestPool, draws: RowDraws) -> dict[str, dict[str, Tensor]]:
        golden, prefix = self.golden, self.prefixes[purpose]
        recorded_order = golden.index(f"{prefix}topk_idx")
        assert draws.rows == len(recorded_order)
        assert torch.equal(recorded_order.sort(dim=1).values, pool.hardest)

        def positions(key: str) -> Tensor:
            entries = recorded_order.gather(1, golden.index(f"{prefix}{key}"))
            return torch.searchsorted(pool.hardest, entries)

        drawn = {
            name: {"members": positions(f"t{number}_draw_idx{'1' if name == 'mixup' else ''}")}
            for number, name in enumerate(NEGATIVE_KINDS, 1)
        }
        drawn["interpolated"]["alpha"] = golden.tensor(f"{prefix}t1_alpha")
        drawn["extrapolated"]["beta"] = golden.tensor(f"{prefix}t2_beta")
        drawn["mixup"]["members_other"] = positions("t3_draw_idx2")
        drawn["mixup"]["gamma"] = golden.tensor(f"{prefix}t3_gamma")
        drawn["noise"]["normal"] = golden.tensor(f"{prefix}t4_z")
        made = synthesize(pool, drawn, self._negatives())
        self.logits[purpose] = torch.cat([made[name].logits for name in NEGATIVE_KINDS], 1).detach().clone()
        return drawn

    def contrast(self, purpose: str, q: Tensor, k: Tensor, queue: FeatureQueue, *others: Any) -> Any:
        answer = super().contrast(purpose, q, k, queue, *others)
        plain = [(q * k).sum(1, keepdim=True), q @ queue.features.T]
        made = [self.logits[purpose]] if purpose in self.logits else []
        self.logits[purpose] = torch.cat([*plain, *made], 1).detach()
        return answer


class RecordedMoBY(Recorded, MoBY):
    pass


class RecordedMoCo(Recorded, MoCo):
    pass


def branches(golden: Any, online: str = "_q", target: str = "_k") -> Branches:
    def linear(side: str) -> nn.Linear:
        weight = golden.tensor(f"W{side}")
        layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
        layer.load_state_dict({"weight": weight, "bias": golden.tensor(f"b{side}")})
        return layer

    return Branches(linear(online), nn.Identity(), nn.Identity(), linear(target), nn.Identity())


def method_section(golden: Any, framework: str, active_epochs: list[int] | None) -> dict[str, Any]:
    counts = golden.numbers("ns")
    negatives = {
        "hardest": int(golden.number("n_hard")),
        "active_epochs": active_epochs,
        **dict(zip(NEGATIVE_KINDS, counts, strict=True)),
        "noise": {"count": counts[3], "sigma": golden.number("sigma")},
        "perturbed": {"count": counts[4], "delta": golden.number("delta")},
        "adversarial": {"count": counts[5], "eta": golden.number("eta")},
    }
    return {
        "framework": framework,
        "backbone": "linear",
        "queue_size_features": int(golden.number("K")),
        "output_features": int(golden.number("C")),
        "temperature": golden.number("T"),
        "negatives": negatives if framework in ("synby", "synco") else None,
    }


def recorded_moby(
    golden: Any, networks: Branches, queues: str, prefixes: Mapping[str, str], spec: MobySpec
) -> RecordedMoBY:
    empty = [FeatureQueue(spec.queue_size_features, spec.output_features, Generator()) for _ in range(2)]
    momentum = MomentumUpdate(golden.number("contrast_momentum"))
    method = RecordedMoBY(networks, (empty[0], empty[1]), momentum, spec).double()
    method.follow(golden, prefixes)
    for number, queue in enumerate((method.queue_1, method.queue_2), 1):
        queue.fill(golden.tensor(queues.format(number)))
    return method


def assert_equals_recorded(got: Mapping[str, Any], golden: Any, dtype: torch.dtype) -> None:
    for key, value in got.items():
        expected = golden.tensor(key, dtype)
        assert value.dtype == dtype, key
        torch.testing.assert_close(value.detach(), expected, rtol=0, atol=TOLERANCE[dtype], msg=key)


@pytest.mark.golden("step_synby_moby_byol_*.npz")
@both_precisions
@pytest.mark.parametrize("part", ["synby_active", "synby_inactive", "moby"])
def test_step_of_synby_and_moby(golden: Any, part: str, dtype: torch.dtype) -> None:
    spec = MobySpec.model_validate(method_section(golden, part.split("_")[0], [0, 3]))
    directions = {"view_1": "dir1_", "view_2": "dir2_"}
    method = recorded_moby(golden, branches(golden), "queue{}", directions, spec).to(dtype)
    pointer, rows = int(golden.number("ptr0")), int(golden.number("N"))
    for queue in (method.queue_1, method.queue_2):
        queue.pointer.fill_(pointer)
    step = StepContext(
        seed=0,
        step=int(golden.number("k0")),
        epoch=3 if part == "synby_active" else 4,
        total_steps=int(golden.number("total_steps_K")),
        images_per_step_global=rows,
    )
    output = method([golden.tensor("im_1", dtype), golden.tensor("im_2", dtype)], step)
    output.loss.backward()
    method.commit(step)
    after = {
        "new_W_k": method.target_encoder.weight,
        "new_b_k": method.target_encoder.bias,
        "new_queue1": method.queue_1.features[pointer : pointer + rows],
        "new_queue2": method.queue_2.features[pointer : pointer + rows],
    }
    assert_equals_recorded({f"{part}_loss": output.loss} | after, golden, dtype)
    assert int(method.queue_1.pointer) == int(method.queue_2.pointer) == golden.number("new_ptr")
    if part == "synby_active":
        directions_of_loss = {
            "synby_active_loss_1": output.parts["view_1"],
            "synby_active_loss_2": output.parts["view_2"],
        }
        assert_equals_recorded(directions_of_loss, golden, dtype)
    if part == "moby":
        assert_equals_recorded({"moby_official_loss": output.loss}, golden, dtype)
    if part != "synby_inactive":
        logits = torch.cat([method.logits["view_1"], method.logits["view_2"]]) / spec.temperature
        computed = {
            f"{part}_output": logits,
            f"{part}_grad_W_q": method.encoder.weight.grad,
            f"{part}_grad_b_q": method.encoder.bias.grad,
        }
        assert_equals_recorded(computed, golden, dtype)
        assert not golden.index(f"{part}_target").any()  # the positive comes first, as above


@pytest.mark.golden("step_synco_moco_*.npz")
@both_precisions
@pytest.mark.parametrize("part", ["synco_epoch10", "synco_epoch9", "synco_epochNone", "moco"])
def test_step_of_moco_and_synco(golden: Any, part: str, dtype: torch.dtype) -> None:
    epochs = None if part == "synco_epochNone" else [int(golden.number("warmup_epochs")), 10**6]
    framework = "moco_v2" if part == "moco" else "synco"
    spec = MocoSpec.model_validate(method_section(golden, framework, epochs))
    rows = int(golden.number("N"))
    queue = FeatureQueue(spec.queue_size_features, spec.output_features, Generator())
    momentum = MomentumUpdate(golden.number("m"), rises=False)
    method = RecordedMoCo(branches(golden), queue, momentum, spec).double()
    method.follow(golden, {"view_1": ""})
    queue.fill(golden.tensor("queue"))
    queue.pointer.fill_(spec.queue_size_features - rows)
    method = method.to(dtype)
    step = StepContext(0, 7, 9 if part == "synco_epoch9" else 10, 100, rows)
    output = method([golden.tensor("im_q", dtype), golden.tensor("im_k", dtype)], step)
    output.loss.backward()
    method.commit(step)
    (logits,) = method.logits.values()
    computed = {
        f"{part}_loss": output.loss,
        f"{part}_logits": logits / spec.temperature,
        f"{part}_grad_W_q": method.encoder.weight.grad,
        f"{part}_grad_b_q": method.encoder.bias.grad,
        "new_W_k": method.target_encoder.weight,
        "new_queue": queue.features,
    }
    assert_equals_recorded(computed, golden, dtype)
    assert int(queue.pointer) == golden.number("new_ptr")


@pytest.mark.golden("step_synby_moby_byol_*.npz")
@both_precisions
def test_step_of_byol(golden: Any, dtype: torch.dtype) -> None:
    method = BYOL(branches(golden), MomentumUpdate(golden.number("contrast_momentum"))).to(dtype)
    total, rows = int(golden.number("total_steps_K")), int(golden.number("N"))
    step = StepContext(0, int(golden.number("k0")), 0, total, rows)
    output = method([golden.tensor("im_1", dtype), golden.tensor("im_2", dtype)], step)
    output.loss.backward()
    computed = {
        "byol_loss": output.loss,
        "byol_grad_W_q": method.encoder.weight.grad,
        "byol_grad_b_q": method.encoder.bias.grad,
        "new_W_k": method.target_encoder.weight,
        "new_b_k": method.target_encoder.bias,
    }
    assert_equals_recorded(computed, golden, dtype)


@pytest.mark.golden("trajectory_synby_*.npz")
@both_precisions
def test_trajectory_of_synby(golden: Any, dtype: torch.dtype) -> None:
    """12 AdamW steps: clipping, learning rate, momentum and the epochs of the negatives are the product's."""
    rows, steps_per_epoch = int(golden.number("N")), int(golden.number("steps_per_epoch"))
    total = steps_per_epoch * int(golden.number("epochs"))
    epochs = [int(golden.number("syn_warmup_epochs")), int(golden.number("syn_cooldown_epochs"))]
    spec = MobySpec.model_validate(method_section(golden, "synby", epochs))
    # Not validated: the recorded run has counts of its own.
    spec = spec.model_copy(update={"compat": "synco_v2", "compat_world_size": 1})
    method = recorded_moby(golden, branches(golden, "0", "0"), "queue{}_0", {}, spec).to(dtype)
    weight, bias = method.encoder.weight, method.encoder.bias
    optimizer_spec = OptimizerSpec(
        learning_rate_base=golden.number("base_lr"),
        learning_rate_warmup_base=golden.number("warmup_lr"),
        learning_rate_min_base=golden.number("min_lr"),
        warmup_epochs=golden.number("lr_warmup_epochs"),
        images_per_step_of_base_rate=rows,
        weight_decay=golden.number("weight_decay"),
        weight_decay_of="matrices_and_tokens",
        betas=golden.numbers("betas"),
        eps=golden.number("eps"),
    )
    optimizer = build_optimizer(method, optimizer_spec)
    late = learning_rate_steps_late(spec)
    schedule = Schedule(optimizer_spec, steps_per_epoch, total, rows, steps_late=late)
    for number in range(total):
        method.prefixes = {"view_1": f"s{number}_dir1_", "view_2": f"s{number}_dir2_"}
        images = rows * steps_per_epoch
        step = StepContext(0, number, number // steps_per_epoch, total, rows, images_per_epoch=images)
        rate = schedule.apply(optimizer, number)
        output = method([golden.tensor(f"im_{view}", dtype)[number] for view in (1, 2)], step)
        optimizer.zero_grad()
        output.loss.backward()
        norm = nn.utils.clip_grad_norm_([weight, bias], golden.number("clip_grad"))
        optimizer.step()
        method.commit(step)
        assert method.active(step) == bool(golden.numbers("log_active")[number])
        assert rate == pytest.approx(golden.numbers("log_lr")[number], rel=1e-12)
        assert int(method.queue_1.pointer) == golden.numbers("log_ptr")[number]
        close = {"abs": TOLERANCE[dtype]}
        assert output.loss.item() == pytest.approx(golden.numbers("log_loss")[number], **close)
        assert norm.item() == pytest.approx(golden.numbers("log_grad_norm")[number], **close)
        momentum = output.stats["momentum"].item()
        assert momentum == pytest.approx(golden.numbers("log_momentum")[number], abs=1e-7)
    computed = {
        "W_q": weight,
        "b_q": bias,
        "W_k": method.target_encoder.weight,
        "b_k": method.target_encoder.bias,
        "queue1_sum": method.queue_1.features.sum(1),
        "queue2_sum": method.queue_2.features.sum(1),
    }
    assert_equals_recorded(computed, golden, dtype)
