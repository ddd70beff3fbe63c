from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from syn2co_ray.methods import StepContext, build_method
from syn2co_ray.methods.moby import MoBY
from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.method import MobySpec
from syn2co_ray.spec.negatives import NEGATIVE_KINDS

MakeSpec = Callable[..., MobySpec]
MakeStep = Callable[..., StepContext]


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
