"""What `compat` does equals what the published code did, and without it nothing of that happens."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from syn2co_ray.methods import StepContext, build_method
from syn2co_ray.methods.compat import (
    DEVIATIONS,
    active_epochs,
    learning_rate_steps_late,
    published_negatives,
    start_queue,
)
from syn2co_ray.methods.moby import MoBY
from syn2co_ray.methods.moco import MoCo
from syn2co_ray.methods.queue import FeatureQueue
from syn2co_ray.spec.compat import crossed_switches
from syn2co_ray.spec.errors import SpecError, Syn2coError
from syn2co_ray.spec.method import MobySpec, MocoSpec
from syn2co_ray.spec.negatives import NEGATIVE_KINDS, NegativesSpec
from syn2co_ray.spec.train import OptimizerSpec
from syn2co_ray.train.optimizer import parameter_groups

from ..golden_vectors import golden_entries

GATE = r"gate_L(?P<images>\d+)_B(?P<batch>\d+)_E\d+_start(?P<start>\d+)_warm(?P<first>\d+)_cool(?P<last>\d+)_world(?P<world>\d+)"


def moby(**fields: Any) -> MobySpec:
    return MobySpec.model_validate({"framework": "synby", "backbone": "vit_tiny_patch16_224"} | fields)


def moco(**fields: Any) -> MocoSpec:
    return MocoSpec.model_validate({"framework": "synco", "backbone": "resnet18"} | fields)


def step_of(step: int, **fields: Any) -> StepContext:
    values = {"seed": 0, "step": step, "epoch": 0, "total_steps": 1000, "images_per_step_global": 4}
    return StepContext(**(values | fields))


@pytest.mark.parametrize("entry", golden_entries("schedules_*.npz", GATE))
def test_active_steps_equal_those_of_the_published_run(entry):
    world, batch = entry.count("world"), entry.count("batch")
    first_step, total = entry.file[f"{entry.name}_k0_K"]
    # A run that started late counts its start twice; ours start at 0, so the window moves instead.
    first, last = (entry.count(end) - entry.count("start") for end in ("first", "last"))
    negatives = NegativesSpec(hardest=4, active_epochs=(first, last))
    spec = moby(compat="synco_v2", compat_world_size=world)
    context = {"images_per_step_global": world * batch, "images_per_epoch": entry.count("images")}
    window = active_epochs(spec, negatives)
    active = [window.include(step_of(step, **context)) for step in range(int(first_step), int(total))]
    np.testing.assert_array_equal(active, entry.value)


@pytest.mark.parametrize("world", [1, 4, 8])
def test_epochs_of_the_published_clock_are_longer_by_the_number_of_its_gpus(world):
    """ImageNet at 512 images a step: epoch 30 begins in real epoch 30 W, one step early."""
    images, batch = 1_281_167, 512
    spec, negatives = (
        moby(compat="synco_v2", compat_world_size=world),
        NegativesSpec(hardest=4, active_epochs=[30, 100]),
    )
    begin = 30 * (images // (batch // world)) - 1
    assert begin / (images // batch) == pytest.approx(30 * world, abs=0.1)
    context = {"images_per_step_global": batch, "images_per_epoch": images}
    assert not active_epochs(spec, negatives).include(step_of(begin - 1, **context))
    assert active_epochs(spec, negatives).include(step_of(begin, **context))


def test_without_compat_epochs_are_those_of_the_run():
    negatives = NegativesSpec(hardest=4, active_epochs=[2, 3])
    for spec in (moby(), moco(), moco(compat="synco_v1")):
        active = [active_epochs(spec, negatives).include(step_of(7, epoch=epoch)) for epoch in range(6)]
        assert active == [False, False, True, True, False, False]
    always = NegativesSpec(hardest=4)
    assert all(active_epochs(s, always).include(step_of(0)) for s in (moby(), moby(compat="synco_v2")))


def test_the_published_clock_without_its_number_of_images_is_refused():
    negatives = NegativesSpec(hardest=4, active_epochs=[2, 3])
    with pytest.raises(Syn2coError, match=r"data\.images_per_epoch: missing.*synco_v2"):
        active_epochs(moby(compat="synco_v2"), negatives).include(step_of(0))


@pytest.mark.parametrize("entry", golden_entries("flag_swap.json", r"v[12] n1\.\.n6=(?P<counts>.*)"))
def test_crossed_switches_make_as_many_negatives_as_the_published_code(entry):
    counts = dict(zip(NEGATIVE_KINDS, map(int, re.findall(r"\d+", entry.named["counts"])), strict=True))
    made = re.match(r"(\d+) synthetic logits", entry.value)
    if made is None:
        assert "RuntimeError" in entry.value
        with pytest.raises(SpecError, match="the published code crashes"):
            crossed_switches(counts)
    else:
        assert sum(crossed_switches(counts).values()) == int(made[1])


@pytest.mark.parametrize("entry", golden_entries("weight_decay_*.json", ".*"))
def test_synco_v2_makes_the_counts_and_constants_that_were_in_effect(entry):
    asked = dict(zip(NEGATIVE_KINDS, entry.value["n1..n6 in yaml"], strict=True))
    negatives = NegativesSpec(hardest=entry.value["n_hard"], **asked)
    runs = published_negatives(moby(compat="synco_v2"), negatives)
    assert [getattr(runs, name).count for name in NEGATIVE_KINDS] == entry.value["n1..n6 in effect"]
    assert [runs.noise.sigma, runs.perturbed.delta, runs.adversarial.eta] == entry.value["sigma,delta,eta"]
    assert runs.hardest == entry.value["n_hard"]
    assert published_negatives(moby(), negatives) is negatives


def test_synco_v1_keeps_its_counts_but_loses_perturbed_without_noise():
    with_noise = NegativesSpec(hardest=8, interpolated=5, noise=3, perturbed=2)
    without = NegativesSpec(hardest=8, interpolated=5, perturbed=2)
    kept, lost = (published_negatives(moco(compat="synco_v1"), n).kinds() for n in (with_noise, without))
    assert {name: kind.count for name, kind in kept.items()} == {
        "interpolated": 5,
        "noise": 3,
        "perturbed": 2,
    }
    assert list(lost) == ["interpolated"]
    assert list(published_negatives(moco(), without).kinds()) == ["interpolated", "perturbed"]


def queue() -> FeatureQueue:
    return FeatureQueue(512, 8, Generator().manual_seed(1))


@pytest.mark.golden("step_synco_moco_*.npz")
def test_start_of_the_queue_is_normalised_as_the_published_one(golden):
    """Columns have length 1, so rows have sqrt(C / K) on average."""
    columns, rows = golden.tensor("init_queue_col_norms"), golden.tensor("init_queue_row_norms")
    size, width = len(rows), len(columns)
    ours = FeatureQueue(size, width, Generator().manual_seed(1))
    start_queue(moco(compat="synco_v1"), ours, seed=3)
    torch.testing.assert_close(ours.features.norm(dim=0).double(), columns, rtol=0, atol=1e-6)
    for lengths in (ours.features.norm(dim=1).double(), rows):
        assert lengths.square().mean().item() == pytest.approx(width / size, rel=1e-6)


def test_start_of_the_queue_follows_the_seed_and_only_with_compat():
    first, again, other, plain, untouched = (queue() for _ in range(5))
    for made, seed in ((first, 3), (again, 3), (other, 4)):
        start_queue(moco(compat="synco_v1"), made, seed)
    start_queue(moco(), plain, seed=3)
    start_queue(moby(compat="synco_v2"), plain, seed=3)
    assert torch.equal(first.features, again.features)
    assert not torch.equal(first.features, other.features)
    assert torch.equal(plain.features, untouched.features)


def test_synby_makes_the_published_negatives_at_the_published_steps(views):
    """6 images a step as of 2 GPUs, 60 images: an epoch of the published clock is 20 steps, ours is 10."""
    fields = {"patch_size": 8, "queue_size_features": 160, "hidden_features": 16, "output_features": 8}
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    wanted = {"hardest": 128, "active_epochs": (1, 1)}
    spec = moby(compat="synco_v2", compat_world_size=2, backbone_options=options, negatives=wanted, **fields)
    method = build_method(spec, 32, 0)
    assert isinstance(method, MoBY)
    assert method.negatives is not None
    assert [kind.count for kind in method.negatives.kinds().values()] == [128, 128, 128, 64, 64, 64]
    active = []
    for step in (9, 10, 18, 19, 38, 39):
        context = {"epoch": step // 10, "images_per_step_global": 6, "images_per_epoch": 60}
        stats = method(views, step_of(step, **context)).stats
        active.append((step, "negatives/mixup/logit" in stats))
    assert active == [(9, False), (10, False), (18, False), (19, True), (38, True), (39, False)]


def test_synco_starts_its_queue_as_the_published_code_does_only_when_asked():
    fields = {"queue_size_features": 512, "output_features": 8, "negatives": {"hardest": 8, "mixup": 2}}
    plain, published = (build_method(moco(compat=c, **fields), 32, 0) for c in (None, "synco_v1"))
    assert isinstance(plain, MoCo)
    assert isinstance(published, MoCo)
    assert plain.queue.features.norm(dim=1).mean().item() == pytest.approx(1, rel=1e-5)
    assert published.queue.features.norm(dim=1).mean().item() == pytest.approx((8 / 512) ** 0.5, rel=0.1)


def test_only_synco_v2_starts_its_vit_as_the_published_code_does():
    fields = {"queue_size_features": 128, "negatives": {"hardest": 128, "mixup": 2}}
    plain, published = (build_method(moby(compat=c, **fields), 32, 0) for c in (None, "synco_v2"))
    widths = [method.encoder.blocks[0].attn.qkv.weight.std().item() for method in (plain, published)]
    assert widths == pytest.approx([0.02, (2 / (192 + 192)) ** 0.5], rel=0.02)
    assert torch.equal(published.encoder.cls_token, published.target_encoder.cls_token)


def test_synco_v2_starts_a_swin_as_any_run_does():
    swin = {
        "backbone": "swin_tiny_patch4_window7_224",
        "patch_size": 2,
        "backbone_options": {"embed_dim": 24},
    }
    fields = {"queue_size_features": 128, "negatives": {"hardest": 128, "mixup": 2}}
    plain, published = (build_method(moby(compat=c, **swin, **fields), 32, 0) for c in (None, "synco_v2"))
    assert torch.equal(plain.encoder.patch_embed.proj.weight, published.encoder.patch_embed.proj.weight)
    assert torch.equal(plain.encoder.patch_embed.proj.bias, published.encoder.patch_embed.proj.bias)


def test_only_synco_v2_has_its_rate_one_step_late():
    late = [learning_rate_steps_late(s) for s in (moby(), moby(compat="synco_v2"), moco(compat="synco_v1"))]
    assert late == [0, 1, 0]


def with_backbone(name: str, backbone: str, **options: int) -> list[Any]:
    """The golden entry of that name, with the timm model that has its shapes."""
    found = golden_entries("weight_decay_*.json", name)
    return [pytest.param(*entry.values, backbone, options, marks=entry.marks, id=entry.id) for entry in found]


@pytest.mark.parametrize(
    ("entry", "backbone", "options"),
    with_backbone("synco_vit_small", "vit_small_patch16_224", num_heads=12)
    + with_backbone("synco_swin_tiny", "swin_tiny_patch4_window7_224"),
)
def test_our_own_networks_decay_what_the_published_ones_do(entry, backbone, options):
    """By shape, since heads have other names: 54 of 161 tensors of the ViT, 68 of 183 of the Swin."""
    spec = moby(framework="moby", backbone=backbone, backbone_options=options, queue_size_features=8)
    groups = parameter_groups(
        build_method(spec, 224, 0), OptimizerSpec(weight_decay_of="matrices_and_tokens")
    )
    frozen = {tuple(shape) for _, shape in entry.value["frozen_online"]}
    for group, part in zip(groups, ("decay", "no_decay"), strict=True):
        # Their positions are fixed, ours may be learned.
        shapes = [tuple(p.shape) for p in group["params"] if tuple(p.shape) not in frozen]
        assert sorted(shapes) == sorted(tuple(shape) for _, shape in entry.value[part])


def test_every_deviation_says_what_and_whether_it_is_reproduced():
    assert len({deviation.name for deviation in DEVIATIONS}) == len(DEVIATIONS)
    for deviation in DEVIATIONS:
        assert deviation.reproduced.startswith(
            ("synco_v1", "synco_v2", "both", "in the spec", "the same", "no: ")
        ), deviation.name
        assert re.search(r"\bv[12]\b", deviation.source), deviation.name
