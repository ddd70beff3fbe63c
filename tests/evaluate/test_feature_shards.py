"""Feature shards: made once, found again, whole or made anew, named by all that decides them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from syn2co_ray.augment.eval_view import eval_view
from syn2co_ray.data.decode import decode_rgb
from syn2co_ray.data.index import build_index
from syn2co_ray.evaluate import feature_shards
from syn2co_ray.evaluate.feature_shards import Network, View, content_hash, contents_of, feature_set
from syn2co_ray.evaluate.features import raw_pixels
from syn2co_ray.evaluate.labelled import LabelledSet
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec
from syn2co_ray.storage import Store, open_store

from ..data.sources import put, write_folder, write_parquet

OPTIONS = ObjectStoreSpec()
CPU = torch.device("cpu")
PIXELS = Network("pixels", "pixels", raw_pixels)


def labelled(uri: str) -> LabelledSet:
    return LabelledSet((build_index(SourceSpec(uri=uri), OPTIONS),), OPTIONS, 8, 10_000, 16)


@pytest.fixture
def source(tmp_path: Path) -> tuple[LabelledSet, list[Any], Store]:
    """42 images in 6 row groups, in shards of about 15, and an empty job folder."""
    expected = write_parquet(str(tmp_path / "data"))
    return labelled(str(tmp_path / "data")), expected, open_store(str(tmp_path / "job"), OPTIONS)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_shards, "IMAGES_PER_SHARD", 15)


def files(store: Store) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(store.path, "features").iterdir()}


def test_a_set_has_every_image_once_in_order_with_the_networks_features(source):
    images, expected, store = source
    found = feature_set(store, images, PIXELS, CPU, lambda line: None)
    assert found.keys == [record.key for record in expected]
    assert found.labels == [record.label for record in expected]
    assert found.contents == [content_hash(record.image) for record in expected]
    assert found.contents == list(contents_of(images.indexes[0], OPTIONS))
    views = np.stack([eval_view(decode_rgb(r.image, pixels_max=10_000), 8) for r in expected])
    assert torch.equal(found.features, raw_pixels(torch.from_numpy(views)))
    assert found.unreadable == []
    assert len(files(store)) == 3


def test_what_is_there_is_found_again_and_a_stop_keeps_whole_shards(source):
    images, _, store = source
    lines: list[str] = []
    stopped = feature_set(store, images, PIXELS, CPU, lines.append, should_stop=lambda: len(lines) == 2)
    assert stopped is None
    before = files(store)
    assert len(before) == 2
    whole = feature_set(store, images, PIXELS, CPU, lines.append)
    assert len(lines) == 3
    assert before.items() <= files(store).items()
    again = feature_set(store, images, PIXELS, CPU, lines.append, should_stop=lambda: True)
    assert len(lines) == 3
    assert torch.equal(again.features, whole.features)


def test_other_weights_views_sizes_or_data_are_other_shards(source, tmp_path):
    images, _, store = source
    darker = View("darker", lambda view, key: view // 2)
    kinds: list[Any] = [
        (images, PIXELS, View()),
        (images, Network("pixels", "other", raw_pixels), View()),
        (images, PIXELS, darker),
        (dataclasses.replace(images, image_size=16), PIXELS, View()),
    ]
    found = [feature_set(store, a, b, CPU, lambda line: None, c) for a, b, c in kinds]
    assert len(files(store)) == 12
    assert torch.equal(found[2].features, (found[0].features * 255).div(2, rounding_mode="floor") / 255)
    write_parquet(str(tmp_path / "data"))  # the same bytes, written anew: a store cannot know
    feature_set(store, labelled(str(tmp_path / "data")), PIXELS, CPU, lambda line: None)
    assert len(files(store)) == 15


def test_a_damaged_shard_is_made_again(source):
    images, _, store = source
    whole = feature_set(store, images, PIXELS, CPU, lambda line: None)
    shard = sorted(Path(store.path, "features").iterdir())[1]
    good = shard.read_bytes()
    for damaged in (good[:-40], good[:60] + bytes([good[60] ^ 255]) + good[61:]):
        shard.write_bytes(damaged)
        lines: list[str] = []
        again = feature_set(store, images, PIXELS, CPU, lines.append)
        assert "is damaged and made again" in lines[0]
        assert torch.equal(again.features, whole.features)
        assert shard.read_bytes() == good


def test_unreadable_images_are_left_out_and_named_also_from_the_kept_shards(tmp_path):
    uri = str(tmp_path / "folder")
    expected = write_folder(uri)
    put(f"{uri}/cat", "broken.png", b"\x89PNG broken")
    images, store = labelled(uri), open_store(str(tmp_path / "job"), OPTIONS)
    for _ in range(2):
        found = feature_set(store, images, PIXELS, CPU, lambda line: None)
        assert found.unreadable == ["cat/broken.png"]
        assert found.keys == [record.key for record in expected]
    only = str(tmp_path / "only")
    put(f"{only}/cat", "broken.png", b"\x89PNG broken")
    with pytest.raises(DataError, match="no image could be decoded"):
        feature_set(store, labelled(only), PIXELS, CPU, lambda line: None)
