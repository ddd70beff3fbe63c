"""A grid of linear classifiers: each is what it would be alone, and none learns from what it is judged by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from syn2co_ray.methods import StepContext, build_method
from syn2co_ray.methods.linear_grid import LinearGrid
from syn2co_ray.spec.errors import Syn2coError
from syn2co_ray.spec.probe import LinearGridMethodSpec
from syn2co_ray.spec.train import OptimizerSpec
from syn2co_ray.train.optimizer import Schedule, build_optimizer

ROWS, CLASSES = 20, 4
SGD = OptimizerSpec(
    name="sgd",
    learning_rate_base=1.0,
    images_per_step_of_base_rate=ROWS,
    warmup_epochs=0,
    weight_decay=0.01,
    gradient_clip_norm=None,
)


def grid(rates: tuple[float, ...], **changes: Any) -> LinearGrid:
    fields: dict[str, Any] = {
        "framework": "linear_grid",
        "backbone": "vit_tiny_patch16_224",
        "patch_size": 8,
        "backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
        "drop_path_online": 0.0,
        "classes": CLASSES,
        "label_smoothing": 0.1,
        "learning_rates": rates,
        "gradient_clip_norm": None,
    }
    method = build_method(LinearGridMethodSpec.model_validate(fields | changes), 16, 0)
    assert isinstance(method, LinearGrid)
    return method


def step(number: int, held_out: torch.Tensor | None) -> StepContext:
    return StepContext(
        seed=0, step=number, epoch=0, total_steps=9, images_per_step_global=ROWS, held_out=held_out
    )


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(ROWS, 3, 16, 16, generator=generator)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    return images, labels, torch.rand(ROWS, generator=generator) < 0.2


def trained(method: LinearGrid, steps: int = 6) -> list[float]:
    """Losses of some steps."""
    optimizer = build_optimizer(method, SGD, method.learning_rate_factors())
    schedule = Schedule(SGD, steps, steps, ROWS)
    losses = []
    for number in range(steps):
        schedule.apply(optimizer, number)
        images, labels, held_out = batch(number)
        output = method([images], step(number, held_out), labels)
        optimizer.zero_grad()
        output.loss.backward()
        method.before_update(step(number, held_out))
        optimizer.step()
        losses.append(output.loss.item())
    return losses


def test_a_rate_in_a_grid_learns_as_it_would_alone():
    rates = (0.05, 2.0, 0.3)
    whole = grid(rates)
    trained(whole)
    for number, rate in enumerate(rates):
        alone = grid((rate,))
        trained(alone)
        for ours, single in (
            (whole.choosing[number], alone.choosing[0]),
            (whole.final[number], alone.final[0]),
        ):
            torch.testing.assert_close(ours.weight, single.weight, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(ours.bias, single.bias, rtol=1e-5, atol=1e-6)


def test_the_final_classifier_is_that_of_torchs_own_sgd():
    ours = grid((0.3,))
    losses = trained(ours)
    plain = torch.nn.Linear(32, CLASSES)
    torch.nn.init.zeros_(plain.weight)
    torch.nn.init.zeros_(plain.bias)
    groups = [{"params": [plain.weight], "weight_decay": 0.01}, {"params": [plain.bias]}]
    optimizer = torch.optim.SGD(groups, lr=0.3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6, eta_min=0.3 * 5e-6)
    for number in range(6):
        images, labels, _ = batch(number)
        with torch.no_grad():
            features = ours.encoder(images)
        loss = F.cross_entropy(plain(features), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(ours.final[0].weight, plain.weight, rtol=1e-4, atol=1e-6)
    assert losses[0] == pytest.approx(float(torch.log(torch.tensor(4.0))), rel=0.15)


def test_choosing_classifiers_never_see_what_is_held_out():
    images, labels, held_out = batch(0)
    assert 0 < held_out.sum() < ROWS
    changed = torch.where(held_out, (labels + 1) % CLASSES, labels)
    gradients = []
    for wanted in (labels, changed):
        method = grid((0.1,))
        method([images], step(0, held_out), wanted).loss.backward()
        gradients.append((method.choosing[0].weight.grad.clone(), method.final[0].weight.grad.clone()))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1])


def test_the_backbone_stays_as_it_is_and_only_drop_path_has_a_training_mode():
    method = grid((0.1, 1.0), backbone="resnet18", backbone_options={}, patch_size=None)
    before = {name: tensor.clone() for name, tensor in method.encoder.state_dict().items()}
    trained(method, 2)
    after = method.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    dropping, images = grid((0.1,), drop_path_online=0.5), batch(0)[0]
    dropping([images], step(0, batch(0)[2]), batch(0)[1])
    one, other = (dropping._features(images, step(number, None), ROWS) for number in (0, 1))
    assert not torch.allclose(one, other)
    assert torch.equal(dropping.eval()._features(images, step(0, None), ROWS), dropping.features(images))


def test_each_classifiers_gradient_is_clipped_by_itself():
    method = grid((0.1, 1.0), gradient_clip_norm=0.01)
    images, labels, held_out = batch(0)
    method([images], step(0, held_out), labels).loss.backward()
    with torch.no_grad():
        method.final[1].bias.grad.mul_(1000)
    method.before_update(step(0, held_out))
    for classifier in (*method.choosing, *method.final):
        norm = torch.cat([classifier.weight.grad.flatten(), classifier.bias.grad]).norm().item()
        assert norm == pytest.approx(0.01, rel=1e-3)


def test_it_refuses_a_step_that_does_not_say_what_is_held_out():
    images, labels, held_out = batch(0)
    with pytest.raises(Syn2coError, match="no held-out rows"):
        grid((0.1,))([images], step(0, None), labels)
    with pytest.raises(Syn2coError, match="no labels"):
        grid((0.1,))([images], step(0, held_out))
