from __future__ import annotations

import cv2
import numpy as np
import pytest

from syn2co_ray.generate.gate import differing_bits, fault_of, perceptual_hash
from syn2co_ray.spec.generate import GateSpec


def picture(seed: int, side: int = 64) -> np.ndarray:
    """A smooth random picture, (side, side, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


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
    assert fault_of(image, GateSpec()) == fault


def test_one_value_that_is_not_finite_is_enough() -> None:
    image = picture(0).astype(np.float32) / 255
    image[3, 4, 1] = np.inf
    assert fault_of(image, GateSpec()) == "not finite"


def test_perceptual_hash_survives_compression_and_scale_and_tells_pictures_apart() -> None:
    first, hashes = picture(1), [perceptual_hash(picture(seed)) for seed in range(20)]
    _, encoded = cv2.imencode(".jpg", first, [cv2.IMWRITE_JPEG_QUALITY, 60])
    for changed in (cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.resize(first, (40, 40)), first // 2 + 40):
        assert differing_bits(perceptual_hash(changed), hashes[1]) <= 4
    others = [differing_bits(a, b) for i, a in enumerate(hashes) for b in hashes[i + 1 :]]
    assert min(others) > 8
