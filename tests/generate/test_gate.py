from __future__ import annotations

import cv2
import numpy as np
import pytest

from syn2co_ray.generate.duplicates import repeated
from syn2co_ray.generate.gate import Gate, ReferenceHashes, differing_bits, perceptual_hash
from syn2co_ray.generate.reference import loaded, saved
from syn2co_ray.spec.generate import GateSpec


def picture(seed: int, side: int = 64) -> np.ndarray:
    """A smooth random picture, (side, side, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


def fault_of(image: np.ndarray, gate: Gate = Gate(GateSpec())) -> str | None:
    pixels = np.rint(np.nan_to_num(image).clip(0, 1) * 255).astype(np.uint8)
    (scores,) = gate.scores(image[None], [pixels])
    return scores.fault


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (np.zeros((8, 8, 3), np.float32), "no contrast"),
        (np.full((8, 8, 3), 0.7, np.float32), "no contrast"),
        (np.full((8, 8, 3), np.nan, np.float32), "not finite"),
        (picture(0).astype(np.float32) / 255, None),
    ],
    ids=["black", "flat", "nan", "picture"],
)
def test_faults(image: np.ndarray, fault: str | None) -> None:
    assert fault_of(image) == fault


def test_one_value_that_is_not_finite_is_enough() -> None:
    image = picture(0).astype(np.float32) / 255
    image[3, 4, 1] = np.inf
    assert fault_of(image) == "not finite"


def test_perceptual_hash_survives_compression_and_scale_and_tells_pictures_apart() -> None:
    first, hashes = picture(1), [perceptual_hash(picture(seed)) for seed in range(20)]
    _, encoded = cv2.imencode(".jpg", first, [cv2.IMWRITE_JPEG_QUALITY, 60])
    for changed in (cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.resize(first, (40, 40)), first // 2 + 40):
        assert differing_bits(perceptual_hash(changed), hashes[1]) <= 4
    others = [differing_bits(a, b) for i, a in enumerate(hashes) for b in hashes[i + 1 :]]
    assert min(others) > 8


def test_what_repeats_a_real_image_is_refused_and_says_which_set() -> None:
    hashes = [perceptual_hash(picture(seed)) for seed in range(4)]
    sets = ReferenceHashes(np.array(hashes, dtype=np.uint64), np.array([0, 0, 1, 1]), ("train", "eval"))
    gate = Gate(GateSpec(duplicate_bits_max=2), loaded(saved(sets)))
    assert gate.duplicate(hashes[2] ^ 0b11, []) == "duplicate of eval"
    assert gate.duplicate(hashes[1], []) == "duplicate of train"
    assert gate.duplicate(hashes[1] ^ 0b111, []) is None
    assert gate.duplicate(hashes[1], [hashes[1] ^ 1]) == "duplicate"
    assert Gate(GateSpec(), sets).duplicate(hashes[1], [hashes[1]]) is None


def test_what_is_unlike_any_real_image_is_refused() -> None:
    encoder = {"backbone": "resnet18", "weights": "x.safetensors"}
    spec = {"embedding": {"encoder": encoder, "real": {"uri": "real"}, "similarity_min": 0.5}}
    image = picture(0).astype(np.float32) / 255
    for similarity, fault in ((0.4, "unlike any real image"), (0.6, None)):
        gate = Gate(
            GateSpec.model_validate(spec), None, lambda pixels, s=similarity: np.array([s] * len(pixels))
        )
        assert fault_of(image, gate) == fault


@pytest.mark.parametrize("bits_max", [0, 1, 3, 7])
def test_repeats_are_those_that_comparing_every_pair_finds(bits_max: int) -> None:
    generator = np.random.default_rng(bits_max)
    hashes: dict[int, int] = {}
    for slot in range(300):
        near = int(generator.integers(0, 2**63)) if slot % 3 or not hashes else hashes[slot - 3]
        for bit in generator.integers(0, 64, generator.integers(0, 6)):
            near ^= 1 << int(bit)
        hashes[slot] = near
    kept: list[int] = []
    expected = []
    for slot, found in hashes.items():
        if any(differing_bits(found, other) <= bits_max for other in kept):
            expected.append(slot)
        else:
            kept.append(found)
    assert expected
    assert repeated(hashes, bits_max) == expected
