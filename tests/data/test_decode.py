"""decode_rgb: what it accepts, what it refuses, and that no bytes can bring the process down."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from syn2co_ray.data.decode import UnreadableImage, _as_rgb, decode_rgb, pillow_strict

PIXELS_MAX = 100_000_000

# File of the shared folder `corrupt` -> (height, width) and mean when accepted, or the reason as a pattern.
CORRUPT_FILES: dict[str, tuple[tuple[int, int], float] | str] = {
    "01_truncated.jpg": r"^truncated JPEG",
    "02_zero_bytes.jpg": r"^empty: 0 bytes$",
    "03_png_named.jpg": ((320, 267), 129.9),
    "04_cmyk.jpg": ((320, 267), 129.9),
    "05_grayscale.jpg": ((320, 267), 130.2),
    "06_gray16.png": ((320, 267), 130.2),
    "07_rgba.png": ((320, 267), 192.3),
    "08_exif_orientation6.jpg": ((320, 267), 129.9),
    "09_animated.gif": ((160, 133), 129.6),
    "10_1x1.png": ((1, 1), 85.0),
    "11_bomb_60000x60000.png": r"^header claims 60000x60000 pixels, more than image_pixels_max 100000000$",
    "12_text.jpg": r"^not a JPEG, PNG, WebP, GIF or BMP",
    "13_bomb_jpeg_65500.jpg": r"^header claims 65500x65500 pixels, more than image_pixels_max 100000000$",
    "14_bitflips.jpg": r"^corrupt JPEG",
    "15_palette_transparent.png": ((320, 267), 130.3),
    "16_extreme_aspect.png": ((1, 2000), 121.6),
    "17_progressive.jpg": ((320, 267), 129.9),
    "18_trailing_garbage.jpg": ((320, 267), 129.9),
    "19_bad_crc.png": r"^corrupt PNG",
    "20_lossless.webp": ((320, 267), 129.9),
    "21_png_truncated.png": r"^truncated PNG",
    "22_png_crc_only.png": ((320, 267), 129.9),  # the pixels' own checksum inside zlib is right
}


def photo(height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth picture without any symmetry, so that every turned or mirrored copy differs."""
    y, x = np.mgrid[:height, :width]
    channels = (255 * x / width, 255 * y / height, 255 * (x * y) / (width * height))
    return np.stack(channels, axis=-1).astype(np.uint8)


def encoded(picture: np.ndarray | Image.Image, image_type: str = "PNG", **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, image_type, **options)
    return buffer.getvalue()


def exif_with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def test_decode_corrupt_folder_gives_the_decided_outcome_for_each_file(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "corrupt"
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [entry["file"] for entry in manifest["files"]]
    assert sorted(names) == sorted(CORRUPT_FILES)
    assert len(names) == 22
    for name in names:
        expected = CORRUPT_FILES[name]
        content = (folder / name).read_bytes()
        if isinstance(expected, str):
            with pytest.raises(UnreadableImage) as caught:
                decode_rgb(content, pixels_max=PIXELS_MAX)
            assert re.search(expected, caught.value.reason), f"{name}: {caught.value.reason}"
        else:
            image = decode_rgb(content, pixels_max=PIXELS_MAX)
            assert (image.shape, image.dtype) == ((*expected[0], 3), np.uint8), name
            assert image.mean() == pytest.approx(expected[1], abs=0.2), name


def test_decode_corrupt_folder_upright_copy_matches_the_base_photo(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "corrupt"
    base = decode_rgb((folder / "03_png_named.jpg").read_bytes(), pixels_max=PIXELS_MAX).astype(int)
    for name in ("04_cmyk.jpg", "08_exif_orientation6.jpg", "17_progressive.jpg", "20_lossless.webp"):
        other = decode_rgb((folder / name).read_bytes(), pixels_max=PIXELS_MAX)
        assert np.abs(base - other).mean() < 6, name


def test_decode_real_photos_equal_pillow(shared_dir: Path) -> None:
    import pyarrow.parquet as pq

    path = shared_dir / "data" / "caltech101" / "test-00000-of-00001.parquet"
    rows = pq.ParquetFile(path).read_row_group(0, columns=["image"])["image"].to_pylist()[:200:10]
    assert len(rows) >= 10
    for row in rows:
        by_pillow = ImageOps.exif_transpose(Image.open(io.BytesIO(row))).convert("RGB")
        np.testing.assert_array_equal(decode_rgb(row, pixels_max=PIXELS_MAX), np.asarray(by_pillow))


@pytest.mark.parametrize(
    ("image_type", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 10),
        ("GIF", {}, 40),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("JPEG", {"quality": 95, "progressive": True}, 6),
    ],
)
def test_decode_every_type_gives_contiguous_rgb(image_type: str, options: dict, tolerance: int) -> None:
    image = decode_rgb(encoded(photo(), image_type, **options), pixels_max=60 * 80)
    assert (image.shape, image.dtype) == ((60, 80, 3), np.uint8)
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert np.abs(image.astype(int) - photo()).max() <= tolerance


@pytest.mark.parametrize("image_type", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_applies_exif_orientation_as_pillow_does(image_type: str, orientation: int) -> None:
    content = encoded(photo(), image_type, exif=exif_with_orientation(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    image = decode_rgb(content, pixels_max=PIXELS_MAX)
    np.testing.assert_array_equal(image, np.asarray(upright))
    assert image.flags.c_contiguous


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_decode_ignores_an_orientation_that_does_not_exist(orientation: int) -> None:
    plain = decode_rgb(encoded(photo(), "JPEG"), pixels_max=PIXELS_MAX)
    content = encoded(photo(), "JPEG", exif=exif_with_orientation(orientation))
    np.testing.assert_array_equal(decode_rgb(content, pixels_max=PIXELS_MAX), plain)


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 40])
def test_decode_ignores_a_broken_exif_block(block: bytes) -> None:
    plain = encoded(photo(), "JPEG")
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    image = decode_rgb(content, pixels_max=PIXELS_MAX)
    np.testing.assert_array_equal(image, decode_rgb(plain, pixels_max=PIXELS_MAX))


def test_decode_transparent_pixels_become_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(200, 0, 100, 255), (200, 0, 100, 0), (0, 0, 0, 128)]
    image = decode_rgb(encoded(rgba), pixels_max=PIXELS_MAX)
    assert image[0, 0].tolist() == [200, 0, 100]
    assert image[0, 1].tolist() == [255, 255, 255]
    assert image[0, 2] == pytest.approx([127, 127, 127], abs=1)


def test_decode_palette_grey_alpha_and_keyed_transparency_become_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    image = decode_rgb(encoded(palette, transparency=1), pixels_max=PIXELS_MAX)
    assert image[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    grey_alpha = Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8), mode="LA")
    assert decode_rgb(encoded(grey_alpha), pixels_max=PIXELS_MAX)[0].tolist() == [[7] * 3, [255] * 3]
    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    image = decode_rgb(encoded(keyed, transparency=(4, 5, 6)), pixels_max=PIXELS_MAX)
    assert image[0].tolist() == [[1, 2, 3], [255, 255, 255]]


def test_decode_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 257, 25_700, 32_896, 65_535]], np.uint16)
    image = decode_rgb(encoded(Image.fromarray(values)), pixels_max=PIXELS_MAX)
    assert image[0, :, 0].tolist() == np.rint(values[0] / 257).astype(int).tolist()
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[..., 0] == image[..., 2]).all()


def test_decode_modes_without_a_known_range_are_refused() -> None:
    """32-bit modes, which some Pillow versions choose for 16-bit files."""
    wide = Image.fromarray(np.array([[0, 257, 65_535]], np.int32))
    assert wide.mode == "I"
    assert np.asarray(_as_rgb(wide))[0, :, 0].tolist() == [0, 1, 255]
    for pixels in (np.array([[65_536]], np.int32), np.array([[-1]], np.int32), np.array([[0.5]], np.float32)):
        with pytest.raises(UnreadableImage, match="^mode "):
            _as_rgb(Image.fromarray(pixels))


@pytest.mark.parametrize("mode", ["1", "L"])
@pytest.mark.parametrize("image_type", ["PNG", "JPEG"])
def test_decode_grey_gives_three_equal_channels(mode: str, image_type: str) -> None:
    image = decode_rgb(encoded(Image.fromarray(photo()).convert(mode), image_type), pixels_max=PIXELS_MAX)
    assert image.shape == (60, 80, 3)
    assert (image == image[..., :1]).all()
    assert len(np.unique(image)) >= 2


def test_decode_gif_takes_the_first_frame() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image = decode_rgb(content, pixels_max=PIXELS_MAX)
    assert image.shape == (6, 8, 3)
    assert (image == (255, 0, 0)).all()


def test_decode_cmyk_jpeg_keeps_its_colours() -> None:
    content = encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_rgb(content, pixels_max=PIXELS_MAX).astype(int) - photo()).mean() < 4
    with pytest.raises(UnreadableImage, match="^truncated JPEG"):
        decode_rgb(content[: len(content) * 2 // 3], pixels_max=PIXELS_MAX)


@pytest.mark.parametrize("image_type", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_decode_checks_pixels_before_decoding(image_type: str) -> None:
    content = encoded(photo(), image_type)
    assert decode_rgb(content, pixels_max=4800).shape == (60, 80, 3)
    with pytest.raises(
        UnreadableImage, match="^header claims 80x60 pixels, more than image_pixels_max 4799$"
    ):
        decode_rgb(content, pixels_max=4799)


def test_decode_png_bomb_is_refused_from_its_header() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    with pytest.raises(UnreadableImage, match="^header claims 60000x60000 pixels"):
        decode_rgb(bomb, pixels_max=PIXELS_MAX)


def test_decode_our_limit_replaces_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 4800 pixels would be refused, 150 warned about
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_rgb(encoded(photo()), pixels_max=4800).shape == (60, 80, 3)
        assert decode_rgb(encoded(photo(10, 15)), pixels_max=4800).shape == (10, 15, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_threads_that_decode_side_by_side_share_pillows_limits_and_leave_them_as_they_were(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    inside, first_left = threading.Event(), threading.Event()
    seen = []

    def second() -> None:
        with pillow_strict:
            inside.set()
            assert first_left.wait(60)
            seen.append(Image.MAX_IMAGE_PIXELS)

    thread = threading.Thread(target=second)
    with pillow_strict:
        thread.start()
        assert inside.wait(60)
    first_left.set()
    thread.join()
    assert seen == [None]
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("image_type", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("pillow_fills_in", [False, True])
def test_decode_refuses_truncated_files_whatever_pillow_was_told(
    image_type: str, kept: float, pillow_fills_in: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", pillow_fills_in)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    content = encoded(noise, image_type)
    with pytest.raises(UnreadableImage, match="truncated|corrupt|without a readable header"):
        decode_rgb(content[: int(len(content) * kept)], pixels_max=PIXELS_MAX)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is pillow_fills_in


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP", b"II*\0"]
)
def test_decode_refuses_bare_signatures(content: bytes) -> None:
    with pytest.raises(UnreadableImage) as caught:
        decode_rgb(content, pixels_max=PIXELS_MAX)
    assert len(caught.value.reason) < 100


@pytest.mark.parametrize("image_type", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_decode_changed_bytes_give_an_image_or_unreadable_and_nothing_else(image_type: str) -> None:
    random = np.random.default_rng(0)
    original = encoded(photo(), image_type)
    outcomes = {"image": 0, "unreadable": 0}
    for _ in range(150):
        content = bytearray(original)
        for place in random.integers(0, len(content), 3):
            content[place] = random.integers(0, 256)
        try:
            image = decode_rgb(bytes(content), pixels_max=1_000_000)
            assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)
            outcomes["image"] += 1
        except UnreadableImage:
            outcomes["unreadable"] += 1
    assert sum(outcomes.values()) == 150
    assert outcomes["image"] > 0
    assert outcomes["unreadable"] > 0 or image_type == "BMP"  # a BMP's pixels carry no redundancy


def test_unreadable_image_survives_pickling() -> None:
    error: object = pickle.loads(pickle.dumps(UnreadableImage("truncated JPEG")))
    assert issubclass(UnreadableImage, ValueError)
    assert isinstance(error, UnreadableImage)
    assert (type(error), error.reason, str(error)) == (UnreadableImage, "truncated JPEG", "truncated JPEG")


@pytest.mark.parametrize(
    ("size", "shorter_side_min", "expected"),
    [
        ((400, 600), 0, (400, 600)),
        ((400, 600), 201, (400, 600)),
        ((400, 600), 200, (200, 300)),
        ((401, 601), 100, (101, 151)),
        ((400, 600), 10, (50, 75)),
        ((1, 900), 1, (1, 900)),
    ],
)
def test_decode_large_jpeg_at_part_of_its_size(
    size: tuple[int, int], shorter_side_min: int, expected: tuple[int, int]
) -> None:
    jpeg = encoded(photo(*size), "JPEG", quality=95)
    got = decode_rgb(jpeg, pixels_max=PIXELS_MAX, shorter_side_min=shorter_side_min)
    assert got.shape == (*expected, 3)
    mean = Image.fromarray(decode_rgb(jpeg, pixels_max=PIXELS_MAX)).resize(
        expected[::-1], Image.Resampling.BOX
    )
    assert np.abs(got.astype(int) - np.asarray(mean)).mean() < 2


def test_decode_part_of_a_truncated_jpeg_is_refused() -> None:
    whole = encoded(photo(400, 600), "JPEG", quality=95)
    with pytest.raises(UnreadableImage, match="^truncated JPEG"):
        decode_rgb(whole[: len(whole) // 2], pixels_max=PIXELS_MAX, shorter_side_min=40)
