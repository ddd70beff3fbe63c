"""The loop around the pipeline: the gate, tries, and files that do not depend on batches."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from syn2co_ray.generate.gate import Gate
from syn2co_ray.generate.parts import Parts
from syn2co_ray.generate.shards import METADATA_KEY, PART_SCHEMA, encode, make_shard
from syn2co_ray.generate.slots import Conditions, Slot, image_seed, shard_of
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.generate import EncodingSpec, GenerateSpec
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store

from .conftest import MakeJob


def picture(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).random((6, 6, 3))
    return cv2.resize(small, (16, 16), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def shard_rows(
    job: GenerateSpec, make: Any = None, parts: Parts | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and rejects of the job's first shard, whose pipeline is a function of the seeds."""

    def by_seed(slots: Sequence[Slot], seeds: Sequence[int], originals: Any) -> np.ndarray:
        assert len(slots) <= job.images_per_batch
        return np.stack([picture(seed) for seed in seeds])

    shard = shard_of(job, Conditions(), "c", 0)
    made = make_shard(
        job, "c", shard, make or by_seed, lambda slots: None, Gate(job.gate), {"who": "test"}, parts
    )
    table = pq.read_table(io.BytesIO(made.data))
    assert json.loads(table.schema.metadata[METADATA_KEY]) == {"who": "test", "rejects": made.rejects}
    return table.to_pylist(), made.rejects


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_rows_are_the_slots_in_order_with_their_provenance(batch: int, make_job: MakeJob) -> None:
    job = make_job("text_to_image", images_per_batch=batch, pipeline={"guidance": [1.0, 3.0]})
    rows, rejects = shard_rows(job)
    assert rejects == []
    assert [row["key"] for row in rows] == [f"c-{number:09d}" for number in range(8)]
    assert [row["seed"] for row in rows] == [image_seed(5, number, 0) for number in range(8)]
    for number, row in enumerate(rows):
        slot = shard_of(job, Conditions(), "c", 0).slots[number]
        assert (row["label"], row["prompt"], row["guidance"]) == (slot.label, slot.prompt, slot.guidance)
        pixels = cv2.cvtColor(
            cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        )
        np.testing.assert_array_equal(pixels, np.rint(picture(row["seed"]) * 255))


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_refused_images_are_made_again_with_the_next_seed(batch: int, make_job: MakeJob) -> None:
    job = make_job(images_per_batch=batch)
    black, broken = image_seed(5, 2, 0), image_seed(5, 6, 0)

    def make(slots: Sequence[Slot], seeds: Sequence[int], originals: Any) -> np.ndarray:
        images = np.stack([picture(seed) for seed in seeds])
        images[[seed == black for seed in seeds]] = 0.0
        images[[seed == broken for seed in seeds]] = np.nan
        return images

    rows, rejects = shard_rows(job, make)
    assert rejects == [
        {"slot": 2, "attempt": 0, "label": None, "reason": "no contrast"},
        {"slot": 6, "attempt": 0, "label": None, "reason": "not finite"},
    ]
    assert [row["attempt"] for row in rows] == [0, 0, 1, 0, 0, 0, 1, 0]
    assert rows[2]["seed"] == image_seed(5, 2, 1)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_duplicate_yields_to_the_slot_before_it(batch: int, make_job: MakeJob) -> None:
    job = make_job(images_per_batch=batch, gate={"duplicate_bits_max": 2})
    same = {image_seed(5, number, 0) for number in (1, 4, 5)}

    def make(slots: Sequence[Slot], seeds: Sequence[int], originals: Any) -> np.ndarray:
        return np.stack([picture(0 if seed in same else seed) for seed in seeds])

    rows, rejects = shard_rows(job, make)
    assert [(reject["slot"], reject["reason"]) for reject in rejects] == [(4, "duplicate"), (5, "duplicate")]
    assert [row["attempt"] for row in rows] == [0, 0, 0, 0, 1, 1, 0, 0]


def test_a_slot_that_cannot_be_filled_says_which_and_why(make_job: MakeJob) -> None:
    job = make_job("text_to_image", gate={"tries_max": 3})

    def make(slots: Sequence[Slot], seeds: Sequence[int], originals: Any) -> np.ndarray:
        return np.stack([picture(seed) * (slot.number != 3) for slot, seed in zip(slots, seeds, strict=True)])

    with pytest.raises(DataError, match=r"image 3 \(the dog\): was refused 3 times: no contrast") as caught:
        shard_rows(job, make)
    assert "gate.tries_max" in str(caught.value)


def test_a_shard_that_was_begun_goes_on_where_it_was_left(make_job: MakeJob, tmp_path: Path) -> None:
    """The pipeline fails in the third batch; the next actor makes what is missing, and the file is the same."""
    job = make_job(images_per_batch=2, gate={"duplicate_bits_max": 2})
    made: list[int] = []
    black = image_seed(5, 1, 0)

    def make(slots: Sequence[Slot], seeds: Sequence[int], originals: Any) -> np.ndarray:
        if len(made) == 4 and "go on" not in mode:
            raise RuntimeError("the node is gone")
        made.extend(slot.number for slot in slots)
        return np.stack([picture(seed) * (seed != black) for seed in seeds])

    mode = ["fail"]
    store = open_store(str(tmp_path), ObjectStoreSpec())

    def parts() -> Parts:
        return Parts(store, "shard-0-x.parquet", PART_SCHEMA, save_every_s=0.0)

    with pytest.raises(RuntimeError, match="the node is gone"):
        shard_rows(job, make, parts())
    assert made == [0, 1, 2, 3]
    mode.append("go on")
    (tmp_path / "_unfinished/shard-0-x/.half.0123.partial").write_bytes(b"PAR1")
    rows, rejects = shard_rows(job, make, parts())
    assert made == [0, 1, 2, 3, 4, 5, 6, 7, 1]
    assert [(reject["slot"], reject["reason"]) for reject in rejects] == [(1, "no contrast")]
    assert (rows, rejects) == shard_rows(job, make)
    parts().clear()
    assert not (tmp_path / "_unfinished/shard-0-x").exists()


@pytest.mark.parametrize(("name", "magic"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8"), ("webp", b"RIFF")])
def test_encodings(name: str, magic: bytes) -> None:
    pixels = np.rint(picture(3) * 255).astype(np.uint8)
    data = encode(pixels, EncodingSpec.model_validate({"format": name}))
    assert data.startswith(magic)
    back = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(back.astype(int) - pixels).mean() < (0.01 if name == "png" else 16)


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_marked_images_say_that_an_algorithm_made_them(name: str) -> None:
    pixels = np.rint(picture(3) * 255).astype(np.uint8)
    data = encode(pixels, EncodingSpec.model_validate({"format": name, "mark": True}))
    with Image.open(io.BytesIO(data)) as image:
        xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        assert image.size == (16, 16)
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in xmp
    if name == "png":
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
