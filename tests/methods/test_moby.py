from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from syn2co_ray.methods import StepContext, build_method
from syn2co_ray.methods.moby import MoBY
from syn2co_ray.spec.errors import SpecError, Syn2coError
from syn2co_ray.spec.method import MobySpec

MakeSpec = Callable[..., MobySpec]
MakeStep = Callable[..., StepContext]


@pytest.fixture
def moby(tiny_spec: MakeSpec) -> MoBY:
    method = build_method(tiny_spec(framework="moby", negatives=None, drop_path_online=0.0), 32, 0)
    assert isinstance(method, MoBY)
    return method


def test_loss_is_the_sum_of_both_directions_written_out(
    moby: MoBY, views: list[Tensor], step_at: MakeStep
) -> None:
    """At the first step the target equals the online branch, so the forward pass can be written in full."""
    queues = [moby.queue_1.features.clone(), moby.queue_2.features.clone()]
    output = moby(views, step_at())
    with torch.no_grad():
        projections = [moby.projector(moby.encoder(view)) for view in views]
        q = [F.normalize(moby.predictor(projection)) for projection in projections]
        k = [F.normalize(projection) for projection in projections]
    parts = []
    for own, other in ((0, 1), (1, 0)):
        logits = torch.cat([(q[own] * k[other]).sum(1, keepdim=True), q[own] @ queues[other].T], 1) / 0.2
        parts.append(-logits.log_softmax(1)[:, 0].mean())
    torch.testing.assert_close(output.loss, parts[0] + parts[1])
    torch.testing.assert_close(output.parts["view_1"], parts[0])
    torch.testing.assert_close(output.parts["view_2"], parts[1])

    moby.commit(step_at())
    for number, queue in enumerate((moby.queue_1, moby.queue_2)):
        torch.testing.assert_close(queue.features[:6], k[number])
        assert torch.equal(queue.features[6:], queues[number][6:])
        assert int(queue.pointer) == 6


def test_gradient_reaches_the_online_branch_only(moby: MoBY, views: list[Tensor], step_at: MakeStep) -> None:
    output = moby(views, step_at())
    output.loss.backward()
    for name, parameter in moby.named_parameters():
        is_target = name.startswith("target_")
        assert parameter.requires_grad != is_target
        assert (parameter.grad is None) == is_target, name
    assert not any(value.requires_grad for value in (output.parts | output.stats).values())
    assert all(value.ndim == 0 for value in (output.parts | output.stats).values())


def test_softmax_masses_are_telemetry(moby: MoBY, views: list[Tensor], step_at: MakeStep) -> None:
    stats = moby(views, step_at(50)).stats
    assert 0 < stats["queue/mass"] < 1
    assert -1 <= stats["positive/logit"] <= 1
    assert stats["momentum"] == pytest.approx(0.995)


def test_the_largest_logit_is_that_of_both_directions(
    moby: MoBY, views: list[Tensor], step_at: MakeStep
) -> None:
    """One queue gets an entry that equals its query, the other has none like it."""
    with torch.no_grad():
        moby.queue_2.features[0] = F.normalize(moby.predictor(moby.projector(moby.encoder(views[0]))))[0]
    assert moby(views, step_at()).stats["queue/logit_max"].item() == pytest.approx(1, abs=1e-5)


def test_target_moves_before_the_keys_are_made(moby: MoBY, views: list[Tensor], step_at: MakeStep) -> None:
    moby(views, step_at(0))
    with torch.no_grad():
        for parameter in moby.encoder.parameters():
            parameter.add_(0.1)
    before = [parameter.clone() for parameter in moby.target_encoder.parameters()]
    moby(views, step_at(50))
    for old, target, online in zip(
        before, moby.target_encoder.parameters(), moby.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(target, 0.995 * old + 0.005 * online)


def test_repeated_step_gives_the_same_loss(moby: MoBY, views: list[Tensor], step_at: MakeStep) -> None:
    first = moby(views, step_at(3))
    assert torch.equal(moby(views, step_at(3)).loss, first.loss)


def test_step_without_commit_leaves_the_queues(moby: MoBY, views: list[Tensor], step_at: MakeStep) -> None:
    before = moby.queue_1.features.clone()
    moby(views, step_at(0))
    moby(views, step_at(1))
    assert torch.equal(moby.queue_1.features, before)
    moby.commit(step_at(1))
    assert int(moby.queue_1.pointer) == 6


def test_keys_that_are_not_finite_are_not_enqueued(
    moby: MoBY, views: list[Tensor], step_at: MakeStep
) -> None:
    views[1][2] = float("nan")
    before = [queue.features.clone() for queue in (moby.queue_1, moby.queue_2)]
    assert not torch.isfinite(moby(views, step_at()).loss)
    moby.commit(step_at())
    assert torch.equal(moby.queue_2.features, before[1])
    assert int(moby.queue_2.pointer) == 0
    assert torch.isfinite(moby.queue_1.features).all()


def test_commit_needs_the_forward_of_its_step(moby: MoBY, views: list[Tensor], step_at: MakeStep) -> None:
    with pytest.raises(RuntimeError, match="commit of step 0"):
        moby.commit(step_at(0))
    moby(views, step_at(0))
    with pytest.raises(RuntimeError, match="commit of step 1"):
        moby.commit(step_at(1))
    moby.commit(step_at(0))
    with pytest.raises(RuntimeError, match="commit of step 0"):
        moby.commit(step_at(0))


def test_other_numbers_of_views_are_refused(moby: MoBY, views: list[Tensor], step_at: MakeStep) -> None:
    with pytest.raises(Syn2coError, match="3 views"):
        moby([*views, views[0]], step_at())


def test_negatives_are_refused(tiny_spec: MakeSpec) -> None:
    with pytest.raises(SpecError, match=r"method\.negatives: given with framework moby"):
        build_method(tiny_spec(framework="moby"), 32, 0)


def test_build_is_a_function_of_the_seed(tiny_spec: MakeSpec) -> None:
    before = torch.get_rng_state()
    first, again, other = (build_method(tiny_spec(), 32, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    for key in ("encoder.blocks.0.attn.qkv.weight", "predictor.0.weight", "queue_1.features"):
        assert not torch.equal(first[key], other[key])
    assert not torch.equal(first["queue_1.features"], first["queue_2.features"])
    for key in [key for key in first if key.startswith("target_")]:
        assert torch.equal(first[key], first[key.removeprefix("target_")])


def test_encoder_state_has_the_keys_of_timm(moby: MoBY) -> None:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=0, embed_dim=32, depth=2, num_heads=2
    )
    model.load_state_dict(moby.encoder.state_dict())
