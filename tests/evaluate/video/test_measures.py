"""J and F against worked cases, a second implementation that shares no step, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from syn2co_ray.evaluate.video.measures import (
    boundary,
    boundary_accuracy,
    region_similarity,
    statistics,
)

from .plain_measures import plain_f


def square(height: int, width: int, top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_region_similarity_of_worked_cases():
    truth = square(8, 8, 2, 2, 4)
    assert region_similarity(truth, truth) == 1.0
    assert region_similarity(truth, square(8, 8, 2, 4, 4)) == pytest.approx(8 / 24)
    assert region_similarity(truth, np.zeros((8, 8), bool)) == 0.0
    assert region_similarity(np.zeros((8, 8), bool), np.zeros((8, 8), bool)) == 1.0


def test_the_boundary_is_half_a_pixel_towards_the_origin():
    edge = boundary(square(6, 6, 2, 2, 2))
    assert edge.astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 0, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert not boundary(np.ones((5, 5), bool)).any()


def test_boundary_accuracy_of_worked_cases():
    # 100 x 100: 0.8 % of the diagonal is 1.13 pixels, so 2.
    truth = square(100, 100, 20, 20, 40)
    assert boundary_accuracy(truth, square(100, 100, 20, 22, 40)) == 1.0
    # Three pixels to the right: of the 160 pixels of each outline, those of the sides that do not lie in both.
    shifted = boundary_accuracy(truth, square(100, 100, 20, 23, 40))
    assert shifted == pytest.approx(plain_f(truth, square(100, 100, 20, 23, 40)))
    assert 0.5 < shifted < 1.0
    empty = np.zeros((100, 100), bool)
    assert boundary_accuracy(truth, empty) == 0.0
    assert boundary_accuracy(empty, truth) == 0.0
    assert boundary_accuracy(empty, empty) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_both_equal_a_second_implementation_on_ragged_masks(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.random((2, 9, 12)) < 0.4
    truth, found = (np.kron(each, np.ones((7, 7))).astype(bool)[:60, :80] for each in coarse)
    found[rng.random(found.shape) < 0.02] ^= True
    assert region_similarity(truth, found) == pytest.approx(
        jaccard_score(truth.ravel(), found.ravel()), abs=1e-12
    )
    assert boundary_accuracy(truth, found) == pytest.approx(plain_f(truth, found), abs=1e-12)


@pytest.mark.parametrize(("clip", "first", "second"), [("tennis", 4, 9), ("bmx-trees", 10, 13)])
def test_both_equal_a_second_implementation_on_real_masks(shared_dir, clip, first, second):
    """Two frames of one clip, as if the object had been lost for some; to 1e-12."""
    folder = shared_dir / "data/video_clips" / clip / "Annotations"
    truth, found = (np.array(Image.open(folder / f"{number:05d}.png")) > 0 for number in (first, second))
    overlap = jaccard_score(truth.ravel(), found.ravel())
    assert region_similarity(truth, found) == pytest.approx(overlap, abs=1e-12)
    outline = plain_f(truth, found)
    assert boundary_accuracy(truth, found) == pytest.approx(outline, abs=1e-12)
    assert 0 < overlap < 1
    assert 0 < outline < 1


def test_statistics_are_those_of_davis():
    falling = statistics([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert falling.mean == pytest.approx(0.65)
    assert falling.recall == pytest.approx(5 / 8)  # 0.5 itself is no hit
    # Quarters of frames 1 to 8 end at 1, 3, 5, 6 and 8 (1, 2.75, 4.5, 6.25, 8 rounded): 1-3 and 6-8.
    assert falling.decay == pytest.approx(0.9 - 0.4)
    one = statistics([0.25])
    assert (one.mean, one.recall, one.decay) == (0.25, 0.0, 0.0)
    long = statistics([1.0] * 300 + [0.0] * 300)
    assert long.decay == 1.0
