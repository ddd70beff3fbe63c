"""Decoding and two BYOL views at 224 pixels: this package against the published pipeline, one core.

    python tests/benchmarks/bench_augment.py [images] [rounds]

The published pipeline is Pillow's decoder and torchvision's transforms on Pillow images with Pillow's
blur, as in the reference code of MoBY. Both sides run in turns in one process on the same JPEGs, on one
thread, and are timed in process CPU seconds; the ratio is of the medians over the rounds. Views are left
as uint8 on both sides. JPEGs: parts of 500 x 375 or 375 x 500 pixels of scikit-learn's two photos,
enlarged by a quarter, quality 90.

Prediction, made before the backend was written: decoding is fixed at about 0.65 ms an image. A view would
take 0.45 ms: crop and resize 0.20 (bilinear resize plus a short smoothing, in place of INTER_AREA's 0.7),
jitter 0.15 (most of it hue), blur 0.11 in view 1, all else 0.04. Together 1.5 ms an image: 650 a CPU
second, 5 times the published pipeline, whose blur and antialiased resize alone take 5 ms.

Found, on a machine shared with other work (two cores, load 4; decoding took 0.75 to 0.8 ms): 490 to 550
images a CPU second against 92 to 96, 5.2 to 5.7 times. Kept because measured better (us for a 224 pixel view):
  - smoothing + bicubic resize instead of INTER_AREA: 210 instead of 390 to 1,000, and half as far from
    Pillow's resize (mean difference 0.48 instead of 0.86 of 255); smoothing + bilinear: same time, 0.8;
  - cv2.sepFilter2D with float taps instead of cv2.GaussianBlur: 120 instead of 300 at sigma 2;
  - cv2.transform for brightness, contrast and saturation: 16 instead of 53 with cv2.LUT;
  - hue added to whole rows instead of every third byte: 9 instead of 28;
  - kernels cut at 2.5 sigma instead of BYOL's 23 taps: a mean difference of 0.1 of 255.
Tried and left: stacked box blurs (as fast as sepFilter2D, 0.4 off), blurring at half size (0.7 off),
stack blur, resizing planes one by one, fast DCT and fast upsampling in the JPEG decoder (up to 55 off).
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images
from torchvision import transforms

from syn2co_ray.augment.views import ViewMaker
from syn2co_ray.data.decode import decode_rgb
from syn2co_ray.spec.augment import AugmentSpec

IMAGE_SIZE = 224
PIXELS_MAX = 100_000_000


def sample_jpegs(count: int) -> list[bytes]:
    """`count` JPEGs, every fourth upright."""
    random = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    photos = [photo.resize((800, 534), Image.Resampling.BICUBIC) for photo in photos]
    jpegs = []
    for number in range(count):
        width, height = (375, 500) if number % 4 == 3 else (500, 375)
        photo = photos[number % 2]
        left, top = int(random.integers(photo.width - width)), int(random.integers(photo.height - height))
        buffer = io.BytesIO()
        photo.crop((left, top, left + width, top + height)).save(buffer, "JPEG", quality=90)
        jpegs.append(buffer.getvalue())
    return jpegs


class PillowBlur:
    """Pillow's Gaussian blur with a sigma drawn from U(0.1, 2)."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        sigma = 0.1 + 1.9 * torch.rand(()).item()
        return picture.filter(ImageFilter.GaussianBlur(sigma))


def published_pipeline(blur_probability: float, solarise_probability: float) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(IMAGE_SIZE, scale=(0.08, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([PillowBlur()], blur_probability),
            transforms.RandomSolarize(128, solarise_probability),
            transforms.PILToTensor(),
        ]
    )


def cpu_seconds_per_image(work: Callable[[], object], images: int) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) / images


def steps_to_time(jpegs: list[bytes]) -> dict[str, Callable[[], object]]:
    """Name of a row of the table -> one pass over all images."""
    maker = ViewMaker(AugmentSpec(image_size=IMAGE_SIZE, backend="opencv"), seed=0)
    first, second = published_pipeline(1.0, 0.0), published_pipeline(0.1, 0.2)
    arrays = [decode_rgb(jpeg, pixels_max=PIXELS_MAX) for jpeg in jpegs]
    pictures = [Image.fromarray(array) for array in arrays]

    def open_with_pillow(jpeg: bytes) -> Image.Image:
        return Image.open(io.BytesIO(jpeg)).convert("RGB")

    def ours(images: list[np.ndarray], start: int) -> None:
        keys = [str(key) for key in range(start, start + len(images))]
        maker(images, keys, [0] * len(images), [0] * len(images))

    def ours_together() -> None:
        for number, jpeg in enumerate(jpegs):
            ours([decode_rgb(jpeg, pixels_max=PIXELS_MAX)], number)

    def published_together() -> None:
        for jpeg in jpegs:
            picture = open_with_pillow(jpeg)
            first(picture), second(picture)

    return {
        "decode, ours": lambda: [decode_rgb(jpeg, pixels_max=PIXELS_MAX) for jpeg in jpegs],
        "decode, published": lambda: [open_with_pillow(jpeg) for jpeg in jpegs],
        "two views, ours": lambda: ours(arrays, 0),
        "two views, published": lambda: [(first(p), second(p)) for p in pictures],
        "decode + two views, ours": ours_together,
        "decode + two views, published": published_together,
    }


def main(images: int = 64, rounds: int = 5) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    jpegs = sample_jpegs(images)
    steps = steps_to_time(jpegs)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):  # in turns, so that a slow moment of the machine meets both sides
        for name, work in steps.items():
            seconds[name].append(cpu_seconds_per_image(work, images))
    kilobytes = sum(map(len, jpegs)) / images / 1000
    print(f"{images} JPEGs of {kilobytes:.0f} kB, views of {IMAGE_SIZE} pixels, one thread, {rounds} rounds")
    print(f"{'':20}{'ours':>10}{'published':>12}{'ratio':>8}   images a CPU second (medians)")
    for name in ("decode", "two views", "decode + two views"):
        ours, published = (statistics.median(seconds[f"{name}, {side}"]) for side in ("ours", "published"))
        print(f"{name:20}{1 / ours:10.0f}{1 / published:12.0f}{published / ours:8.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
