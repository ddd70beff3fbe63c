from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from syn2co_ray.methods import StepContext, build_method
from syn2co_ray.methods.branches import Branches
from syn2co_ray.methods.draws import RowDraws
from syn2co_ray.methods.moby import MoBY
from syn2co_ray.methods.momentum import MomentumUpdate
from syn2co_ray.methods.negatives import HardestPool
from syn2co_ray.methods.queue import FeatureQueue
from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.method import MobySpec
from syn2co_ray.spec.negatives import NEGATIVE_KINDS, NegativesSpec

MakeSpec = Callable[..., MobySpec]
MakeStep = Callable[..., StepContext]


class RecordedSynBY(MoBY):
    """SynBY whose draws are those of a recorded run."""

    def __init__(self, golden: Any, prefix: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.golden, self.prefix = golden, prefix

    def draw(self, purpose: str, pool: HardestPool, draws: RowDraws) -> dict[str, dict[str, Tensor]]:
        prefix = f"{self.prefix}{purpose.replace('view_', 'dir')}_"
        recorded_order = self.golden.index(f"{prefix}topk_idx")
        assert draws.rows == len(recorded_order)
        assert torch.equal(recorded_order.sort(dim=1).values, pool.hardest)

        def positions(key: str) -> Tensor:
            entries = recorded_order.gather(1, self.golden.index(f"{prefix}{key}"))
            return torch.searchsorted(pool.hardest, entries)

        drawn = {
            name: {"members": positions(f"t{number}_draw_idx{'1' if name == 'mixup' else ''}")}
            for number, name in enumerate(NEGATIVE_KINDS, 1)
        }
        drawn["interpolated"]["alpha"] = self.golden.tensor(f"{prefix}t1_alpha")
        drawn["extrapolated"]["beta"] = self.golden.tensor(f"{prefix}t2_beta")
        drawn["mixup"]["members_other"] = positions("t3_draw_idx2")
        drawn["mixup"]["gamma"] = self.golden.tensor(f"{prefix}t3_gamma")
        drawn["noise"]["normal"] = self.golden.tensor(f"{prefix}t4_z")
        return drawn


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def recorded_method(
    golden: Any, prefix: str, online: str, target: str, queues: str, epochs: list[int]
) -> RecordedSynBY:
    """Encoder = one linear layer, heads = identity, in float64, as in the recorded run."""
    counts = golden.numbers("ns")
    spec = NegativesSpec(
        hardest=int(golden.number("n_hard")),
        active_epochs=epochs,
        interpolated=counts[0],
        extrapolated=counts[1],
        mixup=counts[2],
        noise={"count": counts[3], "sigma": golden.number("sigma")},
        perturbed={"count": counts[4], "delta": golden.number("delta")},
        adversarial={"count": counts[5], "eta": golden.number("eta")},
    )
    size, width = int(golden.number("K")), int(golden.number("C"))
    method_spec = MobySpec(
        framework="synby",
        backbone="linear",
        queue_size_features=size,
        output_features=width,
        temperature=golden.number("T"),
        negatives=spec,
    )
    branches = Branches(
        encoder=linear(golden.tensor(f"W{online}"), golden.tensor(f"b{online}")),
        projector=nn.Identity(),
        predictor=nn.Identity(),
        target_encoder=linear(golden.tensor(f"W{target}"), golden.tensor(f"b{target}")),
        target_projector=nn.Identity(),
    )
    made = [FeatureQueue(size, width, Generator()) for _ in range(2)]
    momentum = MomentumUpdate(golden.number("contrast_momentum"))
    method = RecordedSynBY(golden, prefix, branches, (made[0], made[1]), momentum, method_spec).double()
    for number, queue in enumerate((method.queue_1, method.queue_2), 1):
        queue.fill(golden.tensor(queues.format(number)))
    return method


@pytest.mark.golden("step_synby_moby_byol_*.npz")
@pytest.mark.parametrize("part", ["synby_active", "moby"])
def test_step_equals_published_code(golden: Any, part: str) -> None:
    method = recorded_method(golden, "", "_q", "_k", "queue{}", [0, 3])
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
    output = method([golden.tensor("im_1"), golden.tensor("im_2")], step)
    output.loss.backward()
    method.commit(step)
    assert isinstance(method.encoder, nn.Linear)
    assert isinstance(method.target_encoder, nn.Linear)

    expected = {
        f"{part}_loss": output.loss.detach(),
        f"{part}_grad_W_q": method.encoder.weight.grad,
        f"{part}_grad_b_q": method.encoder.bias.grad,
        "new_W_k": method.target_encoder.weight,
        "new_b_k": method.target_encoder.bias,
        "new_queue1": method.queue_1.features[pointer : pointer + rows],
        "new_queue2": method.queue_2.features[pointer : pointer + rows],
    }
    if part == "synby_active":
        expected |= {
            "synby_active_loss_1": output.parts["view_1"],
            "synby_active_loss_2": output.parts["view_2"],
        }
    for key, value in expected.items():
        torch.testing.assert_close(value, golden.tensor(key), rtol=0, atol=1e-12, msg=key)
    assert int(method.queue_1.pointer) == int(method.queue_2.pointer) == golden.number("new_ptr")


@pytest.mark.golden("trajectory_synby_*.npz")
def test_trajectory_equals_published_code(golden: Any) -> None:
    """12 AdamW steps with clipping, momentum schedule and negatives coming and going."""
    active = golden.numbers("log_active")
    method = recorded_method(golden, "", "0", "0", "queue{}_0", [1, 1])
    assert isinstance(method.encoder, nn.Linear)
    assert isinstance(method.target_encoder, nn.Linear)
    weight, bias = method.encoder.weight, method.encoder.bias
    groups: list[dict[str, Any]] = [
        {"params": [weight], "weight_decay": golden.number("weight_decay")},
        {"params": [bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=golden.numbers("betas"), eps=golden.number("eps"))
    for number, rate in enumerate(golden.numbers("log_lr")):
        method.prefix = f"s{number}_"
        # The published gate switches one step early: the epoch that counts is the recorded one.
        step = StepContext(0, number, active[number], len(active), int(golden.number("N")))
        output = method([golden.tensor("im_1")[number], golden.tensor("im_2")[number]], step)
        optimizer.zero_grad()
        output.loss.backward()
        norm = nn.utils.clip_grad_norm_([weight, bias], golden.number("clip_grad"))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        method.commit(step)
        assert output.loss.item() == pytest.approx(golden.numbers("log_loss")[number], abs=1e-12)
        assert norm.item() == pytest.approx(golden.numbers("log_grad_norm")[number], abs=1e-12)
        momentum = output.stats["momentum"].item()
        assert momentum == pytest.approx(golden.numbers("log_momentum")[number], abs=1e-7)
        assert int(method.queue_1.pointer) == golden.numbers("log_ptr")[number]
    finals = {
        "W_q": weight,
        "b_q": bias,
        "W_k": method.target_encoder.weight,
        "b_k": method.target_encoder.bias,
        "queue1_sum": method.queue_1.features.sum(1),
        "queue2_sum": method.queue_2.features.sum(1),
    }
    for key, value in finals.items():
        torch.testing.assert_close(value.detach(), golden.tensor(key), rtol=0, atol=1e-12)


def build_synby(spec: MobySpec, seed: int = 0) -> MoBY:
    method = build_method(spec, 32, seed)
    assert isinstance(method, MoBY)
    return method


@pytest.mark.parametrize(
    ("epochs", "epoch", "active"),
    [((2, 4), 1, False), ((2, 4), 2, True), ((2, 4), 4, True), ((2, 4), 5, False), (None, 0, True)],
    ids=str,
)
def test_negatives_are_active_in_the_stated_epochs(
    tiny_spec: MakeSpec,
    views: list[Tensor],
    step_at: MakeStep,
    epochs: tuple[int, int] | None,
    epoch: int,
    active: bool,
) -> None:
    counts = dict.fromkeys(NEGATIVE_KINDS, 2)
    spec = tiny_spec(negatives={"hardest": 8, "active_epochs": epochs, **counts})
    moby = build_method(tiny_spec(framework="moby", negatives=None), 32, 0)
    output = build_method(spec, 32, 0)(views, step_at(epoch=epoch))
    plain = moby(views, step_at(epoch=epoch))
    kinds = {name.split("/")[1] for name in output.stats if name.startswith("negatives/")}
    assert kinds == (set(NEGATIVE_KINDS) if active else set())
    assert torch.equal(output.loss, plain.loss) != active
    assert output.loss >= plain.loss


def test_stats_tell_hardness_and_mass_of_each_kind(
    tiny_spec: MakeSpec, views: list[Tensor], step_at: MakeStep
) -> None:
    stats = build_synby(tiny_spec())(views, step_at()).stats
    for name in NEGATIVE_KINDS:
        assert -1 <= stats[f"negatives/{name}/logit"] <= 1
        assert 0 < stats[f"negatives/{name}/mass"] < 1
    assert stats["negatives/interpolated/logit"] > stats["negatives/extrapolated/logit"]
    assert stats["negatives/perturbed/logit"] > stats["queue/logit"]
    masses = [value for name, value in stats.items() if name.endswith("/mass")]
    assert sum(masses) < 1


def test_bf16_autocast_is_close_to_float32(
    tiny_spec: MakeSpec, views: list[Tensor], step_at: MakeStep
) -> None:
    losses: list[float] = []
    gradients: list[Any] = []
    for half in (False, True):
        method = build_synby(tiny_spec())
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = method(views, step_at())
        output.loss.backward()
        method.commit(step_at())
        assert output.loss.dtype == torch.float32
        assert method.queue_1.features.dtype == torch.float32
        torch.testing.assert_close(method.queue_1.features.norm(dim=1), torch.ones(40), rtol=0, atol=1e-6)
        losses.append(output.loss.item())
        gradients.append(next(method.predictor.parameters()).grad)
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    cosine = torch.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0)
    assert cosine > 0.99


def test_state_dict_round_trip_continues_identically(
    tiny_spec: MakeSpec, views: list[Tensor], step_at: MakeStep
) -> None:
    def train(method: MoBY, steps: range) -> list[float]:
        losses = []
        for step in steps:
            output = method(views, step_at(step))
            method.zero_grad()
            output.loss.backward()
            with torch.no_grad():
                for parameter in method.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(parameter.grad, alpha=0.05)
            method.commit(step_at(step))
            losses.append(output.loss.item())
        return losses

    method = build_synby(tiny_spec())
    train(method, range(3))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    resumed = build_synby(tiny_spec(), seed=99)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert train(resumed, range(3, 6)) == train(method, range(3, 6))
    for key, value in method.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert int(method.queue_1.pointer) == 36


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"negatives": None}, "method.negatives"),
        ({"negatives": {"hardest": 41, "mixup": 3}}, "method.negatives.hardest"),
    ],
    ids=["none", "pool_larger_than_queue"],
)
def test_specs_that_cannot_work_are_refused(tiny_spec: MakeSpec, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_method(tiny_spec(**changes), 32, 0)
    assert caught.value.fault.where == where
