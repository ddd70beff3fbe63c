"""The layout of DAVIS: what is read, and what is said of files that are no masks of these frames."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from syn2co_ray.data.decode import UnreadableImage
from syn2co_ray.evaluate.video.davis import decode_mask, resize_mask
from syn2co_ray.evaluate.video.scores import measured_frames
from syn2co_ray.evaluate.video.segment import palette, read_truth
from syn2co_ray.spec.errors import DataError

from .clips import HEIGHT, PIXELS_MAX, WIDTH, opened, truth, write_clip, write_mask


def test_sequences_come_from_the_folders_or_the_list_asked_for(tmp_path):
    for name in ("a", "b", "c"):
        write_clip(tmp_path, name, frames=3)
    (tmp_path / "val.txt").write_text("c\n\n a \n")
    assert [video.name for video in opened(tmp_path)] == ["a", "b", "c"]
    assert [video.name for video in opened(tmp_path, image_set="val.txt")] == ["c", "a"]
    video = opened(tmp_path)[0]
    assert video.frame(1).shape == (HEIGHT, WIDTH, 3)
    known = read_truth(video)
    assert known.objects == (1, 2)
    assert (known.masks[1] == truth(1)).all()
    assert measured_frames(video, known) == [1]
    write_clip(tmp_path / "flat", "d", frames=3, resolution=".")
    assert [video.name for video in opened(tmp_path / "flat", resolution=None)] == ["d"]


def test_a_change_of_a_frame_changes_the_fingerprint(tmp_path):
    write_clip(tmp_path, frames=3)
    before = opened(tmp_path)[0].fingerprint
    assert opened(tmp_path)[0].fingerprint == before
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "JPEGImages/480p/squares/00001.jpg")
    assert opened(tmp_path)[0].fingerprint != before


def test_lists_and_folders_that_cannot_be_used_are_named(tmp_path):
    write_clip(tmp_path, frames=3)
    (tmp_path / "2016.txt").write_text("/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png\n")
    with pytest.raises(DataError, match=r"is no name of a sequence.*ImageSets/2017"):
        opened(tmp_path, image_set="2016.txt")
    (tmp_path / "other.txt").write_text("bear\n")
    with pytest.raises(DataError, match=r"480p/bear: no frames"):
        opened(tmp_path, image_set="other.txt")
    with pytest.raises(DataError, match=r"no folder of a sequence.*resolution"):
        opened(tmp_path, resolution="1080p")
    (tmp_path / "Annotations/480p/squares/00000.png").unlink()
    with pytest.raises(DataError, match=r"no mask of the first frame, 00000 \(masks: 00001, 00002\)"):
        opened(tmp_path)


def masks(tmp_path):
    return tmp_path / "Annotations/480p/squares"


def test_a_mask_of_another_size_is_refused_but_for_a_pixel(tmp_path):
    write_clip(tmp_path, frames=4)
    write_mask(masks(tmp_path) / "00001.png", truth(1)[:, :-1])
    known = read_truth(opened(tmp_path)[0])
    assert known.masks[1].shape == (HEIGHT, WIDTH)
    assert known.notes == ("squares: 1 masks are a pixel larger or smaller than the frames: resized",)
    write_mask(masks(tmp_path) / "00001.png", truth(1)[::2, ::2])
    with pytest.raises(DataError, match=r"00001.png: 48 x 32 pixels, and its frame has 96 x 64"):
        read_truth(opened(tmp_path)[0])


def test_missing_later_masks_and_later_objects_are_said(tmp_path):
    write_clip(tmp_path, frames=5)
    write_mask(masks(tmp_path) / "00000.png", np.where(truth(0) == 1, 1, 0).astype(np.uint8))
    (masks(tmp_path) / "00003.png").unlink()
    video = opened(tmp_path)[0]
    known = read_truth(video)
    assert known.objects == (1,)
    assert known.notes == (
        "squares: objects 2 are not in the first mask, and not measured",
        "squares: 1 of 5 frames have no mask: not measured",
    )
    assert measured_frames(video, known) == [1, 2]


def test_a_first_mask_without_object_and_a_video_without_further_masks_are_refused(tmp_path):
    write_clip(tmp_path, frames=3)
    write_mask(masks(tmp_path) / "00000.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(DataError, match=r"00000.png: the first mask marks no object"):
        read_truth(opened(tmp_path)[0])
    write_clip(tmp_path, frames=3)
    (masks(tmp_path) / "00001.png").unlink()
    video = opened(tmp_path)[0]
    with pytest.raises(DataError, match="no mask between the first and the last frame"):
        measured_frames(video, read_truth(video))


def test_masks_are_palettes_or_black_and_white(tmp_path):
    path = tmp_path / "mask.png"

    def decoded(mask: np.ndarray, mode: str) -> np.ndarray:
        write_mask(path, mask, mode)
        return decode_mask(path.read_bytes(), PIXELS_MAX)

    with_void = truth(0).copy()
    with_void[0] = 255
    assert (decoded(with_void, "P") == truth(0)).all()
    white = (truth(0) > 0).astype(np.uint8)
    assert (decoded(white * 255, "L") == white).all()
    assert (decoded(white * 255, "1") == white).all()
    for mask, mode, words in ((truth(0), "L", "mode L: greys between"), (white * 255, "RGB", "mode RGB")):
        with pytest.raises(UnreadableImage, match=words):
            decoded(mask, mode)
    with pytest.raises(UnreadableImage, match="no whole PNG"):
        decode_mask(path.read_bytes()[:60], PIXELS_MAX)
    with pytest.raises(UnreadableImage, match="more than image_pixels_max"):
        decode_mask(path.read_bytes(), 10)


def test_colours_are_those_of_davis():
    assert palette()[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]


def test_resizing_takes_the_centres():
    mask = np.arange(12).reshape(3, 4)
    assert resize_mask(mask, 3, 4).tolist() == mask.tolist()
    assert resize_mask(mask, 1, 2).tolist() == [[5, 7]]
    assert resize_mask(mask, 6, 4)[:, 0].tolist() == [0, 0, 4, 4, 8, 8]


def test_palette_masks_of_a_real_clip(shared_dir, tmp_path):
    """Judo has masks in 4 of 16 frames, each with one new object."""
    for kind in ("JPEGImages", "Annotations"):
        shutil.copytree(shared_dir / "data/video_clips/judo" / kind, tmp_path / kind / "480p/judo")
    video = opened(tmp_path)[0]
    known = read_truth(video)
    assert known.objects == (1,)
    assert known.notes == (
        "judo: objects 2, 3, 4 are not in the first mask, and not measured",
        "judo: 12 of 16 frames have no mask: not measured",
    )
    assert measured_frames(video, known) == [5, 8, 13]
