"""Label propagation against a slow, dense one that is written from the paper, also on real frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from syn2co_ray.evaluate.video import propagation
from syn2co_ray.evaluate.video.propagation import propagated, propagated_through, segmentation
from syn2co_ray.evaluate.video.tokens import Tokens
from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.video import VideoSegmentationSpec
from syn2co_ray.spec.weights import WeightsSpec


def slow(target, sources, labels, radius, top_k, temperature):
    """Token by token in double precision: all weights, then those below the k-th largest are dropped."""
    frames, height, width, _ = sources.shape
    target, sources, labels = (np.asarray(each, dtype=np.float64) for each in (target, sources, labels))
    out = np.zeros((height, width, labels.shape[-1]))
    for y in range(height):
        for x in range(width):
            weights = {}
            for n in range(frames):
                for v in range(height):
                    for u in range(width):
                        if radius is None or (abs(v - y) <= radius and abs(u - x) <= radius):
                            weights[n, v, u] = math.exp(target[y, x] @ sources[n, v, u] / temperature)
            least = sorted(weights.values())[-min(top_k, len(weights))]
            kept = {place: weight for place, weight in weights.items() if weight >= least}
            out[y, x] = sum(w * labels[place] for place, w in kept.items()) / sum(kept.values())
    return out


def unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


@pytest.mark.parametrize(("radius", "top_k"), [(2, 5), (None, 5), (0, 5), (1, 1), (3, 10_000)])
def test_equals_the_slow_one(radius, top_k, monkeypatch):
    target, sources = unit(5, 7, 8), unit(3, 5, 7, 8, seed=1)
    labels = torch.rand(3, 5, 7, 4, generator=torch.Generator().manual_seed(2))
    expected = slow(target, sources, labels, radius, top_k, 0.1)
    whole = propagated(target, sources, labels, radius, top_k, 0.1)
    monkeypatch.setattr(propagation, "SIMILARITIES_PER_BAND", 1)
    by_row = propagated(target, sources, labels, radius, top_k, 0.1)
    for found in (whole, by_row):
        assert np.abs(found.numpy() - expected).max() < 1e-5


def test_the_first_frame_stays_and_the_queue_moves_on():
    """Every frame is orthogonal to all others but for one twin: labels come from that twin, if it is held."""
    spec = VideoSegmentationSpec(uri="x", context_frames=2, top_k=1, neighbourhood_tokens=None)
    axes = torch.eye(8).view(8, 1, 1, 8)
    first = torch.tensor([1.0, 0.0]).view(1, 1, 2)
    twin_of_first = [axes[0], axes[1], axes[2], axes[3], axes[0]]
    found = list(propagated_through(iter(twin_of_first), first, spec))
    assert len(found) == 4
    assert torch.equal(found[-1], first)
    assert len(list(propagated_through(iter([axes[0]]), first, spec))) == 0


def test_a_faint_object_is_stretched_before_it_is_compared():
    labels = torch.zeros(4, 4, 2)
    labels[..., 0] = 1.0
    labels[1, 1] = torch.tensor([0.7, 0.3])
    found = segmentation(labels, 16, 16)
    assert found[6, 6] == 1
    assert found.sum() < 40
    assert segmentation(torch.tensor([1.0, 0.0]).expand(4, 4, 2), 8, 8).sum() == 0


def test_equals_the_slow_one_on_real_frames(shared_dir):
    """Four frames of tennis as a random ViT sees them, through the whole queue."""
    from PIL import Image

    folder = shared_dir / "data/video_clips/tennis"
    spec = VideoSegmentationSpec(uri="x", shorter_side_pixels=112, neighbourhood_tokens=3, context_frames=2)
    weights = WeightsSpec(random_seed=0, backbone="vit_tiny_patch16_224", backbone_options={"depth": 2})
    loaded = load_backbone(weights, ObjectStoreSpec())
    tokens = Tokens(loaded.network, loaded.image_size, spec, torch.device("cpu"))
    files = sorted((folder / "JPEGImages").iterdir())[:4]
    frames = [np.array(Image.open(file).convert("RGB")) for file in files]
    seen = [tokens(tokens.shown(frame)) for frame in frames]
    assert seen[0].shape == (7, 12, 192)
    mask = (
        np.array(Image.open(folder / "Annotations/00000.png").resize((12, 7), Image.Resampling.NEAREST)) > 0
    )
    first = torch.from_numpy(np.stack([~mask, mask], axis=-1).astype(np.float32))
    found = list(propagated_through(iter(seen), first, spec))
    held = [(seen[0], first)]
    for number, labels in enumerate(found, 1):
        context = [held[0], *held[1:][-2:]]
        expected = slow(
            seen[number],
            torch.stack([t for t, _ in context]),
            torch.stack([s for _, s in context]),
            3,
            5,
            0.1,
        )
        assert np.abs(labels.numpy() - expected).max() < 1e-4
        held.append((seen[number], labels))
    assert 0 < float(found[-1][..., 1].sum()) < mask.size


@pytest.mark.parametrize("radius", [1, 3, None])
def test_a_band_keeps_its_limit_with_the_rows_near_it(radius, monkeypatch):
    sizes = []

    def watched(formula, *given, product=torch.einsum):
        found = product(formula, *given)
        sizes.append(found.numel())
        return found

    limit = 4 * 3 * 4 * 20
    monkeypatch.setattr(propagation, "SIMILARITIES_PER_BAND", limit)
    monkeypatch.setattr(torch, "einsum", watched)
    propagated(unit(12, 4, 8), unit(3, 12, 4, 8), torch.rand(3, 12, 4, 2), radius, 5, 0.1)
    assert len(sizes) > 1
    assert max(sizes) <= limit
