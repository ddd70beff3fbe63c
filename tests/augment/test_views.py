"""ViewMaker: pure in (seed, epoch, key, repeat), whatever the batch; the right backend; no needless torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from syn2co_ray.augment.opencv_backend import apply_view
from syn2co_ray.augment.parameters import draw_view_parameters
from syn2co_ray.augment.recipes import RECIPES
from syn2co_ray.augment.views import ViewMaker
from syn2co_ray.spec.augment import AugmentSpec
from syn2co_ray.spec.base import Pool

KEYS = ["a/1.jpg", "b/2.jpg", "a/1.jpg", "c/3.jpg"]
EPOCHS = [4, 4, 4, 4]
REPEATS = [0, 0, 1, 0]


@pytest.fixture(scope="module", params=["opencv", "torch"])
def maker(request: pytest.FixtureRequest) -> ViewMaker:
    return ViewMaker(AugmentSpec(image_size=48, backend=request.param), seed=7)


@pytest.fixture(scope="module")
def images(photos: list[np.ndarray]) -> list[np.ndarray]:
    return [photos[0], photos[1], photos[0], photos[1][:100, :90]]


def test_views_shape_and_dtype(maker: ViewMaker, images: list[np.ndarray]) -> None:
    (views,) = maker(images, KEYS, EPOCHS, REPEATS)
    assert (views.shape, views.dtype) == ((4, 2, 3, 48, 48), np.uint8)
    assert maker([], [], [], [])[0].shape == (0, 2, 3, 48, 48)


def test_dino_gives_two_views_and_small_local_ones_of_smaller_crops(images: list[np.ndarray]) -> None:
    spec = AugmentSpec(recipe="dino", image_size=48, local_views=3, local_image_size=24)
    maker = ViewMaker(spec, seed=7)
    views = maker(images, KEYS, EPOCHS, REPEATS)
    assert [group.shape for group in views] == [(4, 2, 3, 48, 48), (4, 3, 3, 24, 24)]
    assert len(np.unique(views[1][0].reshape(3, -1), axis=0)) == 3
    alone = maker(images[2:3], KEYS[2:3], EPOCHS[2:3], REPEATS[2:3])
    for group, same in zip(views, alone, strict=True):
        np.testing.assert_array_equal(group[2], same[0])
    without = ViewMaker(AugmentSpec(recipe="dino", image_size=48, local_views=0), seed=7)
    np.testing.assert_array_equal(without(images, KEYS, EPOCHS, REPEATS)[0], views[0])


def test_supervised_gives_one_view(images: list[np.ndarray]) -> None:
    (views,) = ViewMaker(AugmentSpec(recipe="supervised", image_size=48), seed=7)(
        images, KEYS, EPOCHS, REPEATS
    )
    assert views.shape == (4, 1, 3, 48, 48)


def test_views_do_not_depend_on_order_or_batch(maker: ViewMaker, images: list[np.ndarray]) -> None:
    (views,) = maker(images, KEYS, EPOCHS, REPEATS)
    (backwards,) = maker(images[::-1], KEYS[::-1], EPOCHS[::-1], REPEATS[::-1])
    np.testing.assert_array_equal(backwards[::-1], views)
    for row in range(4):
        (alone,) = maker(
            images[row : row + 1], KEYS[row : row + 1], EPOCHS[row : row + 1], REPEATS[row : row + 1]
        )
        np.testing.assert_array_equal(alone[0], views[row])


def test_views_do_not_depend_on_the_maker(maker: ViewMaker, images: list[np.ndarray]) -> None:
    other = ViewMaker(AugmentSpec(image_size=48, backend=maker.backend), seed=7)
    other(images[:2], KEYS[:2], [0, 1], [0, 0])  # has drawn other views before
    (expected,) = maker(images, KEYS, EPOCHS, REPEATS)
    np.testing.assert_array_equal(other(images, KEYS, EPOCHS, REPEATS)[0], expected)


def test_views_differ_by_epoch_key_repeat_seed_and_view(maker: ViewMaker, images: list[np.ndarray]) -> None:
    image = images[:1]
    views = [
        maker(image, ["k"], [0], [0]),
        maker(image, ["k"], [1], [0]),
        maker(image, ["l"], [0], [0]),
        maker(image, ["k"], [0], [1]),
        ViewMaker(AugmentSpec(image_size=48, backend=maker.backend), seed=8)(image, ["k"], [0], [0]),
    ]
    all_views = np.concatenate([group for (group,) in views]).reshape(10, -1)
    assert len(np.unique(all_views, axis=0)) == 10


def test_views_are_the_drawn_parameters_applied(images: list[np.ndarray]) -> None:
    (views,) = ViewMaker(AugmentSpec(image_size=40), seed=7)(images, KEYS, EPOCHS, REPEATS)
    for row, image in enumerate(images):
        for view, recipe in enumerate(RECIPES["byol"]):
            parameters = draw_view_parameters(
                recipe,
                image_height=image.shape[0],
                image_width=image.shape[1],
                seed=7,
                epoch=EPOCHS[row],
                key=KEYS[row],
                repeat=REPEATS[row],
                view=view,
            )
            np.testing.assert_array_equal(views[row, view], apply_view(image, parameters, 40))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (2, 2)])
def test_views_of_extreme_shapes(maker: ViewMaker, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    (views,) = maker([image] * 8, [str(key) for key in range(8)], [0] * 8, [0] * 8)
    assert views.shape == (8, 2, 3, 48, 48)


def test_auto_backend_is_torch_only_for_actors_with_gpus() -> None:
    def backend_of(name: str, gpus_each: float) -> str:
        actors = Pool(min=1, max=1, gpus_each=gpus_each)
        spec = AugmentSpec.model_validate({"image_size": 32, "backend": name, "actors": actors})
        return ViewMaker(spec, seed=0).backend

    assert backend_of("auto", 0.0) == "opencv"
    assert backend_of("auto", 0.25) == "torch"
    assert backend_of("opencv", 0.25) == "opencv"
    assert backend_of("torch", 0.0) == "torch"


def test_lists_of_different_lengths_are_refused(maker: ViewMaker, images: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="zip"):
        maker(images, KEYS[:3], EPOCHS, REPEATS)


def test_cpu_views_import_neither_torch_nor_ray() -> None:
    program = """
import sys, numpy as np
from syn2co_ray.augment.eval_view import eval_view
from syn2co_ray.augment.views import ViewMaker
from syn2co_ray.data.decode import decode_rgb
from syn2co_ray.spec.augment import AugmentSpec
image = np.zeros((20, 30, 3), np.uint8)
(views,) = ViewMaker(AugmentSpec(image_size=16), seed=0)([image], ["k"], [0], [0])
assert views.shape == (1, 2, 3, 16, 16) and eval_view(image, 16).shape == (3, 16, 16)
print(sorted({"torch", "torchvision", "ray"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
