"""Landmark retrieval on real photos, with ground truth in the published form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from syn2co_ray.augment.eval_view import eval_view
from syn2co_ray.data.decode import decode_rgb
from syn2co_ray.data.index import build_index
from syn2co_ray.evaluate.feature_shards import Network, feature_set
from syn2co_ray.evaluate.features import raw_pixels
from syn2co_ray.evaluate.labelled import LabelledSet
from syn2co_ray.evaluate.landmarks import GroundTruth, landmark_map, read_ground_truth
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec
from syn2co_ray.storage import open_store

from ..data.sources import png

OPTIONS, CPU = ObjectStoreSpec(), torch.device("cpu")


@pytest.fixture(scope="module")
def photos(shared_dir: Path) -> Any:
    """23 photos of 5 landmarks: their table, and the indexed source without labels needed."""
    folder = shared_dir / "data/retrieval_landmarks_tiny"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    index = build_index(SourceSpec(uri=str(folder), format="parquet"), OPTIONS)
    table = pq.read_table(folder / "images-00000-of-00001.parquet").to_pylist()
    return table, LabelledSet((index,), OPTIONS, 64, 10**8, 8, labels_needed=False)


def published(table: list[dict[str, Any]], box: list[float]) -> dict[str, Any]:
    """The first photo of each landmark is a query; the others of it are easy and hard in turn."""
    names = [row["key"] for row in table]
    queries = {row["label"]: number for number, row in reversed(list(enumerate(table)))}
    truths = []
    for label, query in sorted(queries.items()):
        same = [n for n, row in enumerate(table) if row["label"] == label and n != query]
        truths.append({"bbx": box, "easy": same[::2], "hard": same[1::2], "junk": [query]})
    return {"imlist": names, "qimlist": [names[queries[label]] for label in sorted(queries)], "gnd": truths}


def trapezoid_map(ranked: np.ndarray, positive: list[list[int]], junk: list[list[int]]) -> float:
    """Area under the precision-recall points with numpy's trapezoids."""
    areas = []
    for order, good, bad in zip(ranked, positive, junk, strict=True):
        if good:
            hit = np.isin([n for n in order if n not in bad], good)
            precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
            before = np.concatenate([[1.0], precision[:-1]])
            areas.append(((precision + before) / 2)[hit].sum() / len(good))
    return 100 * float(np.mean(areas))


def test_map_of_real_photos_is_the_area_under_their_precision_recall_lines(
    photos: Any, tmp_path: Path
) -> None:
    table, images = photos
    truth = published(table, [20.0, 30.0, 300.0, 310.0])
    (tmp_path / "gnd.json").write_text(json.dumps(truth))
    network = Network("pixels", "pixels", raw_pixels)
    store = open_store(str(tmp_path / "job"), OPTIONS)
    database = feature_set(store, images, network, CPU, lambda line: None)
    found = landmark_map(
        read_ground_truth(str(tmp_path / "gnd.json"), OPTIONS), images, database, raw_pixels, CPU
    )
    decoded = {row["key"]: decode_rgb(row["image"], pixels_max=10**8) for row in table}
    bank = np.stack([eval_view(decoded[name], 64) for name in truth["imlist"]])
    crops = np.stack([eval_view(decoded[name][30:310, 20:300], 64) for name in truth["qimlist"]])
    a, b = (raw_pixels(torch.from_numpy(views)).double().numpy() for views in (crops, bank))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    ranked = np.argsort(-(a @ b.T), axis=1, kind="stable")
    lists = {name: [entry[name] for entry in truth["gnd"]] for name in ("easy", "hard", "junk")}
    both = [e + h for e, h in zip(lists["easy"], lists["hard"], strict=True)]
    without = {
        "easy": [h + j for h, j in zip(lists["hard"], lists["junk"], strict=True)],
        "medium": lists["junk"],
        "hard": [e + j for e, j in zip(lists["easy"], lists["junk"], strict=True)],
    }
    for setup, positive in (("easy", lists["easy"]), ("medium", both), ("hard", lists["hard"])):
        expected = trapezoid_map(ranked, positive, without[setup])
        assert found["map_percent"][setup] == pytest.approx(expected, abs=1e-9), setup
    assert (found["queries"], found["database"]) == (5, 23)


def test_ground_truth_that_does_not_fit_is_refused(photos: Any, tmp_path: Path) -> None:
    table, images = photos
    truth = published(table, [0, 0, 100, 100])
    network = Network("pixels", "pixels", raw_pixels)
    database = feature_set(open_store(str(tmp_path), OPTIONS), images, network, CPU, lambda line: None)

    def read(changed: dict[str, Any]) -> Any:
        (tmp_path / "gnd.json").write_text(json.dumps(changed))
        return read_ground_truth(str(tmp_path / "gnd.json"), OPTIONS)

    with pytest.raises(DataError, match=r"gnd: Field required.*deit_s_landmarks.yaml"):
        read({"imlist": [], "qimlist": []})
    with pytest.raises(DataError, match="4 entries for 5 queries"):
        read({**truth, "gnd": truth["gnd"][:4]})
    with pytest.raises(DataError, match="1 images of the ground truth are not there or unreadable: nowhere"):
        landmark_map(
            read({**truth, "imlist": [*truth["imlist"], "nowhere"]}), images, database, raw_pixels, CPU
        )
    outside = [{**entry, "bbx": [5000, 0, 6000, 100]} for entry in truth["gnd"]]
    with pytest.raises(DataError, match="a box inside the image"):
        landmark_map(read({**truth, "gnd": outside}), images, database, raw_pixels, CPU)


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("oxford", "paris"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "bridge.png").write_bytes(png(1))
        (tmp_path / folder / f"only_{folder}.png").write_bytes(png(2))
    images = LabelledSet(
        (build_index(SourceSpec(uri=str(tmp_path)), OPTIONS),), OPTIONS, 16, 10**6, 4, labels_needed=False
    )
    store = open_store(str(tmp_path / "job"), OPTIONS)
    network = Network("pixels", "pixels", raw_pixels)
    database = feature_set(store, images, network, CPU, lambda line: None)

    def found(*names: str) -> Any:
        query = {"bbx": [0, 0, 8, 8], "easy": [1], "hard": [], "junk": [0]}
        truth = GroundTruth.model_validate({"imlist": names, "qimlist": names[:1], "gnd": [query]})
        return landmark_map(truth, images, database, raw_pixels, CPU)

    with pytest.raises(DataError, match=r"oxford/bridge.*and paris/bridge.* are both called bridge"):
        found("only_oxford", "bridge")
    assert found("only_oxford", "only_paris")["database"] == 2
