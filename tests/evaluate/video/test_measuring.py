"""Videos through networks: an easy one is followed, what was made is kept, and what stops goes on."""

from __future__ import annotations

import io
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from torch import nn

from syn2co_ray.evaluate.video import segment
from syn2co_ray.evaluate.video.davis import Video
from syn2co_ray.evaluate.video.measuring import FIRST_MASK, measure_videos
from syn2co_ray.evaluate.video.scores import figures, object_scores
from syn2co_ray.evaluate.video.segment import VideoNetwork, objects_without_token, read_truth
from syn2co_ray.evaluate.video.sheet import extremes, shown_frames
from syn2co_ray.evaluate.video.tokens import Tokens
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.video import VideoSegmentationSpec
from syn2co_ray.storage import open_store

from .clips import opened, truth, write_clip, write_mask
from .plain_measures import plain_f


class MeanColour(nn.Module):
    """Tokens of 2 x 2 pixels that are their mean colour: enough to follow squares of one colour."""

    def forward_intermediates(self, images, **_):
        return [nn.functional.avg_pool2d(images, 2)]


def spec_of(root):
    return VideoSegmentationSpec(uri=str(root), shorter_side_pixels=64, neighbourhood_tokens=6)


def network(root, digest="colour"):
    return VideoNetwork(
        "trained encoder", digest, Tokens(MeanColour(), 32, spec_of(root), torch.device("cpu"))
    )


def measured(root, store, networks=None, should_stop=lambda: False, log=lambda line: None):
    networks = networks or [network(root)]
    place = open_store(str(store), ObjectStoreSpec())
    return measure_videos(place, opened(root), networks, spec_of(root), log, should_stop, True)


def test_squares_of_one_colour_are_followed_and_beat_the_mask_that_stays(tmp_path):
    write_clip(tmp_path / "clips")
    lines = []
    found = measured(tmp_path / "clips", tmp_path / "out", log=lines.append)
    assert found.rows["trained encoder"]["jf_mean_percent"] > 90
    assert found.rows["trained encoder"]["jf_mean_percent"] > found.rows[FIRST_MASK]["jf_mean_percent"] + 10
    assert found.rows[FIRST_MASK]["j_decay_percent"] > 10
    assert found.about["objects"] == 2
    assert found.about["frames_measured"] == 4
    assert found.about["sequences"]["trained encoder"]["squares"]["objects"] == 2
    assert len(lines) == 1
    assert "video 1 of 1, squares: J&F" in lines[0]
    assert Image.open(io.BytesIO(found.picture)).size[0] > 1000


def test_figures_of_a_whole_real_clip_are_those_of_a_second_implementation(shared_dir, tmp_path):
    """Tennis, 20 frames: J by scikit-learn and F by distances, of the masks that were kept; to 1e-9."""
    clip = shared_dir / "data/video_clips/tennis"
    for kind in ("JPEGImages", "Annotations"):
        shutil.copytree(clip / kind, tmp_path / "clips" / kind / "480p/tennis")
    found = measured(tmp_path / "clips", tmp_path / "out")
    known = [np.array(Image.open(file)) > 0 for file in sorted((clip / "Annotations").iterdir())]
    (file,) = (tmp_path / "out/video_segmentation/trained-encoder").iterdir()
    with zipfile.ZipFile(file) as whole:
        made = [np.array(Image.open(io.BytesIO(whole.read(f"{n:05d}.png")))) > 0 for n in range(20)]
    assert found.about["frames_measured"] == 18
    for row, masks in (("trained encoder", made), (FIRST_MASK, known[:1] * 20)):
        pairs = list(zip(known, masks, strict=True))[1:-1]
        j = np.array([jaccard_score(mask.ravel(), other.ravel()) for mask, other in pairs])
        f = np.array([plain_f(mask, other) for mask, other in pairs])
        expected = {
            "jf_mean_percent": 50 * (j.mean() + f.mean()),
            **{"j_mean_percent": 100 * j.mean(), "f_mean_percent": 100 * f.mean()},
            **{"j_recall_percent": 100 * (j > 0.5).mean(), "f_recall_percent": 100 * (f > 0.5).mean()},
            # Of 18 frames the quarters end with the 1st, 5th, 10th, 14th and 18th.
            "j_decay_percent": 100 * (j[:5].mean() - j[13:].mean()),
            "f_decay_percent": 100 * (f[:5].mean() - f[13:].mean()),
        }
        assert found.rows[row] == pytest.approx(expected, abs=1e-9)


def test_what_is_kept_unpacks_to_what_davis_reads(tmp_path):
    write_clip(tmp_path / "clips")
    measured(tmp_path / "clips", tmp_path / "out")
    (file,) = (tmp_path / "out/video_segmentation/trained-encoder").iterdir()
    with zipfile.ZipFile(file) as whole:
        assert whole.namelist() == [f"{number:05d}.png" for number in range(6)]
        image = Image.open(io.BytesIO(whole.read("00000.png")))
        assert image.mode == "P"
        assert (np.array(image) == truth(0)).all()


def test_a_stopped_job_goes_on_with_whole_videos(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_clip(tmp_path / "clips", name)
    made = []
    monkeypatch.setattr(segment, "_made", lambda *given, make=segment._made: made.append(1) or make(*given))
    asked = []

    def stop_in_the_second():
        asked.append(1)
        return len(asked) > 7  # five frames of the first video are made

    assert measured(tmp_path / "clips", tmp_path / "out", should_stop=stop_in_the_second) is None
    folder = tmp_path / "out/video_segmentation/trained-encoder"
    assert [path.name[:2] for path in folder.iterdir()] == ["a-"]
    first = measured(tmp_path / "clips", tmp_path / "out")
    assert len(made) == 3  # one whole, one stopped, and that one again
    again = measured(tmp_path / "clips", tmp_path / "out")
    assert len(made) == 3
    assert again == first
    (damaged,) = folder.glob("a-*")
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert measured(tmp_path / "clips", tmp_path / "out") == first
    assert len(made) == 4
    measured(tmp_path / "clips", tmp_path / "out", [network(tmp_path / "clips", digest="another")])
    assert len(made) == 6


def test_objects_smaller_than_a_token_are_said_and_lost(tmp_path):
    root = tmp_path / "clips"
    write_clip(root)
    for number in range(6):
        mask = truth(number)
        mask[mask == 2] = 0
        mask[60, 90] = 2
        write_mask(root / f"Annotations/480p/squares/{number:05d}.png", mask)
    video = opened(root)[0]
    assert objects_without_token(read_truth(video), network(root).tokens) == (2,)
    found = measured(root, tmp_path / "out")
    assert "squares: objects 2 are smaller than a token: they cannot be followed" in found.notes


def test_frames_of_two_sizes_are_refused(tmp_path):
    root = tmp_path / "clips"
    write_clip(root)
    Image.new("RGB", (90, 64)).save(root / "JPEGImages/480p/squares/00003.jpg")
    (root / "Annotations/480p/squares/00003.png").unlink()
    with pytest.raises(DataError, match=r"00003.jpg: 90 x 64 pixels, and the first frame has 96 x 64"):
        measured(root, tmp_path / "out")


def test_figures_are_means_over_objects_in_percent(tmp_path):
    write_clip(tmp_path)
    known = read_truth(opened(tmp_path)[0])
    perfect = np.stack([known.masks[number] for number in range(6)])
    found = figures(object_scores(perfect, known, [1, 2, 3, 4]))
    assert found["jf_mean_percent"] == found["j_recall_percent"] == found["f_recall_percent"] == 100.0
    assert found["j_decay_percent"] == 0.0
    without_second = np.where(perfect == 2, 0, perfect)
    found = figures(object_scores(without_second, known, [1, 2, 3, 4]))
    assert found["j_mean_percent"] == found["f_mean_percent"] == found["jf_mean_percent"] == 50.0


def test_the_picture_shows_best_middle_and_worst():
    assert extremes({"a": 1.0, "b": 9.0, "c": 5.0, "d": 4.0}) == ["b", "d", "a"]
    assert extremes({"a": 1.0}) == ["a"]
    assert shown_frames(80) == [0, 20, 40, 59, 79]
    assert shown_frames(2) == [0, 1]


def test_few_frames_are_read_ahead_and_none_after_an_error(tmp_path, monkeypatch):
    root = tmp_path / "clips"
    write_clip(root, frames=20)
    read, frame = [], Video.frame
    monkeypatch.setattr(Video, "frame", lambda video, number: read.append(number) or frame(video, number))
    (video,) = opened(root)
    with ThreadPoolExecutor(segment.READERS) as readers:
        seen = segment._seen(video, network(root).tokens, 64, 96, readers)
        next(seen)
        readers.shutdown()  # waits for all that it was given
    assert sorted(read) == list(range(1 + segment.FRAMES_AHEAD))
    Image.new("RGB", (90, 64)).save(root / "JPEGImages/480p/squares/00001.jpg")
    (root / "Annotations/480p/squares/00001.png").unlink()
    read.clear()
    with pytest.raises(DataError, match=r"00001\.jpg: 90 x 64"):
        measured(root, tmp_path / "out")
    assert max(read) <= 1 + segment.FRAMES_AHEAD
