"""Shards of embeddings: rows of a plain loop, forms, names that follow their own fragments, damage."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from syn2co_ray.augment.eval_view import eval_view
from syn2co_ray.data.decode import decode_rgb
from syn2co_ray.data.index import build_index
from syn2co_ray.evaluate.features import raw_pixels
from syn2co_ray.evaluate.labelled import LabelledSet
from syn2co_ray.evaluate.networks import network_of, packed, unpacked
from syn2co_ray.evaluate.shard_files import (
    UNREADABLE,
    Form,
    ShardPlan,
    embeddings_of,
    make_shard,
    publish_shard,
    read_shard,
    shard_footer,
)
from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.spec.errors import DataError, StorageError
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec
from syn2co_ray.spec.weights import WeightsSpec
from syn2co_ray.storage import Store, open_store

from ..data.sources import Expected, parquet_bytes, png, put, write_folder, write_parquet

OPTIONS = ObjectStoreSpec()
CPU = torch.device("cpu")
TINY = WeightsSpec(
    random_seed=0,
    backbone="vit_tiny_patch16_224",
    patch_size=8,
    backbone_options={"embed_dim": 32, "depth": 2, "num_heads": 2},
    image_size=16,
)


def plan_of(uri: str, form: Form = Form(), images_per_shard: int = 15) -> ShardPlan:
    index = build_index(SourceSpec(uri=uri), OPTIONS)
    images = LabelledSet((index,), OPTIONS, 16, 10_000, 8, labels_needed=False)
    return ShardPlan(images, "digest", form=form, images_per_shard=images_per_shard)


def made(plan: ShardPlan, embed: object = raw_pixels) -> list[object]:
    return [make_shard(plan, number, embed, CPU) for number in range(len(plan.groups))]  # type: ignore[arg-type]


def plain_loop(expected: list[Expected]) -> np.ndarray:
    """What a user writes first: one image after the other through the timm model itself."""
    loaded = load_backbone(TINY, OPTIONS)
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 16, "patch_size": 8}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options).eval()
    model.load_state_dict(loaded.network.state_dict())
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    rows = []
    for one in expected:
        view = torch.from_numpy(eval_view(decode_rgb(one.image, pixels_max=10_000), 16)) / 255
        with torch.inference_mode():
            rows.append(model(((view - mean[:, None, None]) / std[:, None, None])[None])[0].numpy())
    return np.stack(rows)


def test_rows_are_a_plain_loops_features_whichever_process_makes_them(tmp_path: Path) -> None:
    """To 1e-5 of the largest feature: sums over another batch round otherwise. float16: to 1e-3."""
    uri = str(tmp_path / "data")
    expected = write_parquet(uri)
    loop = plain_loop(expected)
    loaded = load_backbone(TINY, OPTIONS)
    here, there = network_of("x", loaded, CPU), unpacked(packed("x", loaded), CPU)
    plan = plan_of(uri)
    tables = made(plan, here.embed)
    found = np.concatenate([embeddings_of(table) for table in tables])
    assert [key for table in tables for key in table["key"].to_pylist()] == [one.key for one in expected]
    np.testing.assert_allclose(found, loop, atol=1e-5 * np.abs(loop).max())
    for table, other in zip(tables, made(plan, there.embed), strict=True):
        assert table.equals(other)
    units = loop / np.linalg.norm(loop, axis=1, keepdims=True)
    halves = made(plan_of(uri, Form("float16", True)), here.embed)
    assert str(halves[0].schema.field("embedding").type) == "fixed_size_list<item: halffloat>[32]"
    np.testing.assert_allclose(np.concatenate([embeddings_of(table) for table in halves]), units, atol=1e-3)


def test_names_follow_weights_form_view_size_and_their_own_fragments_only(tmp_path: Path) -> None:
    uri = str(tmp_path / "data")
    write_parquet(uri)
    plan = plan_of(uri)
    names = [plan.file_of(number) for number in range(3)]
    assert len(set(names)) == 3
    others = [
        dataclasses.replace(plan, network_digest="other"),
        dataclasses.replace(plan, form=Form("float16")),
        dataclasses.replace(plan, form=Form(l2_normalised=True)),
        dataclasses.replace(plan, labelled=dataclasses.replace(plan.labelled, image_size=8)),
    ]
    assert len({name for other in others for name in (other.file_of(0), names[0])}) == 5
    put(uri, "part-9.parquet", (Path(uri) / "part-2.parquet").read_bytes())
    grown = plan_of(uri)
    assert [grown.file_of(number) for number in range(2)] == names[:2]
    assert grown.file_of(2) != names[2]


@pytest.fixture
def shard(tmp_path: Path) -> tuple[Store, str, ShardPlan]:
    """A published shard with one unreadable image."""
    write_folder(str(tmp_path / "data"))
    put(str(tmp_path / "data/cat"), "broken.png", b"\x89PNG broken")
    plan = plan_of(str(tmp_path / "data"), images_per_shard=100)
    folder, file = open_store(str(tmp_path / "job"), OPTIONS), plan.file_of(0)
    publish_shard(folder, file, make_shard(plan, 0, raw_pixels, CPU))
    return folder, file, plan


def test_a_footer_counts_rows_and_names_the_unreadable(shard: tuple[Store, str, ShardPlan]) -> None:
    folder, file, plan = shard
    rows, unreadable = shard_footer(folder, file)
    assert (rows, plan.images_of(0)) == (12, 13)
    assert [key for key, _ in unreadable] == ["cat/broken.png"]
    assert "PNG" in unreadable[0][1]
    assert read_shard(folder, file, ["key"]).column_names == ["key"]


def test_a_damaged_shard_is_said_and_never_read(shard: tuple[Store, str, ShardPlan]) -> None:
    folder, file, _ = shard
    path = Path(folder.path) / file
    good = path.read_bytes()
    path.write_bytes(good[:-40])
    for read in (shard_footer, read_shard):
        with pytest.raises(DataError, match="damaged .*run the job again"):
            read(folder, file)
    middle = len(good) // 2  # in the embeddings
    path.write_bytes(good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :])
    with pytest.raises(DataError, match="damaged"):
        read_shard(folder, file)


def test_a_damaged_footer_between_whole_magics_is_said(shard: tuple[Store, str, ShardPlan]) -> None:
    folder, file, _ = shard
    path = Path(folder.path) / file
    good = path.read_bytes()
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    path.write_bytes(good[:footer] + b"\xff" * 16 + good[footer + 16 :])
    for read in (shard_footer, read_shard):
        with pytest.raises(DataError, match="damaged .*thrift.*run the job again"):
            read(folder, file)
    without_names = good.replace(b"ARROW:schema", b"ARROW?schema").replace(UNREADABLE, UNREADABLE.upper())
    path.write_bytes(without_names)
    with pytest.raises(DataError, match="damaged"):
        shard_footer(folder, file)


@pytest.mark.parametrize(
    "fault", [PermissionError(13, "Permission denied"), OSError("AWS Error ACCESS_DENIED: HTTP status 403")]
)
def test_a_store_that_fails_is_no_damage(
    shard: tuple[Store, str, ShardPlan], monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    def fail(opened: object) -> None:
        raise fault

    monkeypatch.setattr("syn2co_ray.evaluate.shard_files.pq.ParquetFile", fail)
    with pytest.raises(StorageError):
        shard_footer(*shard[:2])


def test_numbers_that_do_not_fit_are_refused_by_their_key(tmp_path: Path) -> None:
    uri = str(tmp_path / "data")
    put(uri, "a.parquet", parquet_bytes(_two_images()))
    large = lambda images: raw_pixels(images) * 1e6  # noqa: E731
    assert np.isfinite(embeddings_of(make_shard(plan_of(uri), 0, large, CPU))).all()
    with pytest.raises(DataError, match=r"k0: its embedding is not finite as float16.*l2_normalised"):
        make_shard(plan_of(uri, Form("float16")), 0, large, CPU)
    assert len(make_shard(plan_of(uri, Form("float16", True)), 0, large, CPU)) == 2


def _two_images() -> object:
    import pyarrow as pa

    return pa.table({"key": ["k0", "k1"], "image": [png(0), png(1)]})
