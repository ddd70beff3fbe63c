"""Reading and decoding ahead: all records once, in order, in batches of an exact size, faults with reasons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from syn2co_ray.augment.eval_view import eval_view
from syn2co_ray.data.decode import decode_rgb
from syn2co_ray.data.index import build_index
from syn2co_ray.evaluate.labelled import LabelledSet
from syn2co_ray.evaluate.shown import content_hash, shown_batches
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec

from ..data.sources import WRITERS, put

OPTIONS = ObjectStoreSpec()


def labelled(uri: str, images_per_batch: int = 16, **changes: bool) -> LabelledSet:
    index = build_index(SourceSpec(uri=uri), OPTIONS)
    return LabelledSet((index,), OPTIONS, 8, 10_000, images_per_batch, **changes)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("threads", [1, 3])
def test_all_records_come_once_in_order_whatever_the_batches(tmp_path: Path, kind: str, threads: int) -> None:
    uri = str(tmp_path / kind)
    expected = WRITERS[kind](uri)
    for size in (1, 7, 1000):
        images = labelled(uri, size)
        index = images.indexes[0]
        batches = list(shown_batches(images, index, range(index.num_fragments), decode_threads=threads))
        assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        records = [record for batch in batches for record in batch]
        assert [(r.key, r.label) for r in records] == [(e.key, e.label) for e in expected]
        for record, one in zip(records, expected, strict=True):
            assert record.content == content_hash(one.image)
            view = eval_view(decode_rgb(one.image, pixels_max=10_000), 8)
            np.testing.assert_array_equal(record.view, view)


def test_file_and_row_say_where_a_record_stands(tmp_path: Path) -> None:
    uri = str(tmp_path / "data")
    WRITERS["parquet"](uri)
    images = labelled(uri)
    records = [r for batch in shown_batches(images, images.indexes[0], range(5)) for r in batch]
    places = [(record.file, record.row) for record in records]
    assert (
        places
        == [(f"part-{n}.parquet", row) for n, rows in ((0, 25), (1, 10), (2, 7)) for row in range(rows)][
            : len(places)
        ]
    )


def test_what_cannot_be_decoded_comes_with_its_reason_and_a_missing_label_ends_it(tmp_path: Path) -> None:
    uri = str(tmp_path / "flat")
    put(uri, "bad.png", b"\x89PNG broken")
    put(uri, "empty.jpg", b"")
    images = labelled(uri, labels_needed=False)
    (batch,) = shown_batches(images, images.indexes[0], range(2))
    assert [(record.key, record.view) for record in batch] == [("bad.png", None), ("empty.jpg", None)]
    assert all(record.fault for record in batch)
    with pytest.raises(DataError, match="record bad.png has no label"):
        list(shown_batches(labelled(uri), images.indexes[0], range(2)))
