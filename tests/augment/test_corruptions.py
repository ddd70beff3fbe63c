"""Corruptions: their formulas on images where the answer is known, a second implementation on photos, and draws."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from syn2co_ray.augment.corruptions import LARGE, SMALL, corrupt
from syn2co_ray.augment.eval_view import eval_view
from syn2co_ray.spec.evaluation import CORRUPTIONS

from .plain_corruptions import CIFAR_10_C, IMAGENET_C, plainly_corrupted

NOISES = [name for name in CORRUPTIONS if name.endswith("noise")]
SIZES = [(32, CIFAR_10_C), (96, IMAGENET_C)]


def picture(size: int) -> np.ndarray:
    """(3, size, size): smooth, coloured, neither black nor white anywhere."""
    rows, columns = np.mgrid[0:size, 0:size] / size
    waves = [0.5 + 0.3 * np.sin(6 * rows + 4 * columns + phase) for phase in (0, 2, 4)]
    return (np.stack(waves) * 255).astype(np.uint8)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_every_corruption_has_five_strengths_for_both_sizes():
    assert set(LARGE) == set(SMALL) == set(CORRUPTIONS)
    assert all(len(values) == 5 for table in (LARGE, SMALL) for values in table.values())


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("size", [32, 96])
def test_a_corruption_is_stronger_with_severity_and_the_same_for_a_key(corruption: str, size: int) -> None:
    view = picture(size)
    made = [corrupt(view, corruption, severity, 0, "a") for severity in (1, 2, 3, 4, 5)]
    assert all(out.shape == view.shape and out.dtype == np.uint8 for out in made)
    assert np.array_equal(corrupt(view, corruption, 5, 0, "a"), made[4])
    if corruption.endswith("noise"):
        assert not np.array_equal(corrupt(view, corruption, 5, 0, "b"), made[4])
        assert not np.array_equal(corrupt(view, corruption, 5, 1, "a"), made[4])
    if corruption != "saturate":  # which first fades and then exaggerates
        assert distance(made[4], view) > distance(made[0], view) > 0


def test_noises_have_the_papers_moments():
    grey = np.full((3, 256, 256), 128, np.uint8)
    x = 128 / 255
    noise = corrupt(grey, "gaussian_noise", 1, 0, "k") / 255 - x
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    shot = corrupt(grey, "shot_noise", 1, 0, "k") / 255
    assert shot.std() == pytest.approx(np.sqrt(x / 60), rel=0.02)
    hit = corrupt(grey, "impulse_noise", 3, 0, "k")
    assert (hit == 0).mean() == pytest.approx(0.045, rel=0.05)
    assert (hit == 255).mean() == pytest.approx(0.045, rel=0.05)
    assert ((hit == 128) | (hit == 0) | (hit == 255)).all()


def test_tones_and_colours_by_hand():
    colour = np.zeros((3, 64, 64), np.uint8)
    colour[0], colour[1], colour[2] = 200, 100, 50
    # V is the largest channel; hue and saturation stay: all channels scale alike.
    lit = corrupt(colour, "brightness", 1, 0, "k")[:, 0, 0]
    assert lit == pytest.approx(np.array([200, 100, 50]) * (200 / 255 + 0.1) / (200 / 255), abs=1)
    # S = 1 - min / max = 0.75 becomes 0.225.
    faded = corrupt(colour, "saturate", 1, 0, "k")[:, 0, 0]
    assert faded[0] == pytest.approx(200, abs=1)
    assert faded[2] == pytest.approx(200 * (1 - 0.225), abs=1)
    view = picture(96)
    pulled = corrupt(view, "contrast", 3, 0, "k")
    mean = view.mean(axis=(1, 2))
    assert pulled.mean(axis=(1, 2)) == pytest.approx(mean, abs=1)
    assert pulled.std(axis=(1, 2)) == pytest.approx(0.2 * view.std(axis=(1, 2)), rel=0.03)


def test_blur_pixelation_and_jpeg():
    point = np.zeros((3, 65, 65), np.uint8)
    point[:, 32, 32] = 255
    steps = np.arange(-32, 33)
    blurred = corrupt(point, "gaussian_blur", 2, 0, "k")[0] / 255
    assert blurred[32, 32] == pytest.approx(1 / (2 * np.pi * 4), abs=1 / 255)
    assert blurred[32, 32 + 2] == pytest.approx(np.exp(-0.5) / (2 * np.pi * 4), abs=1 / 255)
    assert (blurred * steps).sum() == pytest.approx(0, abs=0.5)
    assert len(np.unique(corrupt(picture(96), "pixelate", 5, 0, "k")[0], axis=0)) <= 24
    view = picture(96)
    buffer = io.BytesIO()
    Image.fromarray(view.transpose(1, 2, 0)).save(buffer, "JPEG", quality=7)
    decoded = np.asarray(Image.open(buffer)).transpose(2, 0, 1)
    assert np.array_equal(corrupt(view, "jpeg_compression", 5, 0, "k"), decoded)


def both(photos: list[np.ndarray], corruption: str, size: int, table: dict, severity: int) -> np.ndarray:
    """(3, n, 3, size, size) uint8: photos as they are evaluated, ours and plainly corrupted."""
    generator = np.random.default_rng(severity)
    made = []
    for number, photo in enumerate(photos):
        view = eval_view(photo, size)
        image, strength = view.transpose(1, 2, 0).copy(), table[corruption][severity - 1]
        plain = plainly_corrupted(image, corruption, strength, generator).transpose(2, 0, 1)
        made.append([view, corrupt(view, corruption, severity, 0, str(number)), plain])
    return np.array(made).swapaxes(0, 1)


@pytest.mark.parametrize("corruption", [name for name in CORRUPTIONS if name not in NOISES])
@pytest.mark.parametrize(("size", "table"), SIZES)
def test_photos_are_corrupted_as_by_a_second_implementation(
    caltech_photos: list[np.ndarray], corruption: str, size: int, table: dict
) -> None:
    """To one of 256 levels: a value on the edge of two is cut to either, by float32 or float64."""
    for severity in range(1, 6):
        _, ours, plain = both(caltech_photos, corruption, size, table, severity).astype(int)
        assert np.abs(ours - plain).max() <= 1
        assert (ours == plain).mean() > 0.75


@pytest.mark.parametrize("corruption", NOISES)
@pytest.mark.parametrize(("size", "table"), SIZES)
def test_noise_on_photos_is_distributed_as_by_a_second_implementation(
    caltech_photos: list[np.ndarray], corruption: str, size: int, table: dict
) -> None:
    """Differences to the clean values, of dark, middling and bright ones, by Kolmogorov and Smirnov's test."""
    for severity in range(1, 6):
        clean, ours, plain = both(caltech_photos, corruption, size, table, severity).astype(int)
        for third in (clean < 85, (clean >= 85) & (clean < 170), clean >= 170):
            found = ks_2samp((ours - clean)[third], (plain - clean)[third], method="asymp")
            assert found.pvalue > 1e-5
