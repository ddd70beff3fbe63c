"""Retrieval of landmarks: ROxford5k, RParis6k, and whatever else has their ground truth (arXiv 1803.11285).

The database is every image of `imlist`, a query is the box `bbx` of an image of `qimlist`; both are embedded
in the evaluation view of one size (no pyramid of scales, no whitening, no re-ranking), and ranked by cosine
similarity, equal ones in the database's order.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ValidationError

from ..augment.eval_view import eval_view
from ..data.decode import UnreadableImage, decode_rgb
from ..data.index import SourceIndex, read_rows
from ..spec.errors import DataError
from ..spec.source import ObjectStoreSpec
from ..storage import open_store, read_bytes
from .feature_shards import FeatureSet
from .features import Embed
from .labelled import LabelledSet
from .retrieval import revisited_map

NAMES_SHOWN = 3


class QueryTruth(BaseModel):
    """What should be found for one query: numbers of database images, from 0."""

    bbx: tuple[float, float, float, float]
    """Left, upper, right, lower edge of the query in pixels of its image."""
    easy: list[int]
    hard: list[int]
    junk: list[int]


class GroundTruth(BaseModel):
    """The published dictionary, as JSON."""

    imlist: list[str]
    qimlist: list[str]
    gnd: list[QueryTruth]


def read_ground_truth(uri: str, options: ObjectStoreSpec) -> GroundTruth:
    """Read and check.

    Raises:
        DataError: no JSON of that form, or numbers that are none of the database.
        StorageError: it cannot be read.
    """
    folder, _, name = uri.rpartition("/")
    data = read_bytes(open_store(folder or ("/" if uri.startswith("/") else "."), options), name)
    try:
        truth = GroundTruth.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        step = "write the published dictionary as JSON: jobs/evaluate/deit_s_landmarks.yaml says how"
        raise DataError(uri, f"{place}: {first['msg']}", "imlist, qimlist, gnd", step) from None
    numbers = [n for query in truth.gnd for n in (*query.easy, *query.hard, *query.junk)]
    if len(truth.gnd) != len(truth.qimlist) or any(not 0 <= n < len(truth.imlist) for n in numbers):
        got = f"{len(truth.gnd)} entries for {len(truth.qimlist)} queries, or numbers beyond the database"
        raise DataError(uri, got, "an entry a query, numbers of imlist", "check the file")
    return truth


def landmark_map(
    truth: GroundTruth, images: LabelledSet, database: FeatureSet, embed: Embed, device: torch.device
) -> dict[str, Any]:
    """mAP in percent by setup.

    Args:
        truth: the ground truth.
        images: one indexed source that holds database and queries.
        database: features of all its images.
        embed: the network.
        device: where it is.

    Raises:
        DataError: names that the source lacks or has twice, or a query that cannot be decoded.
    """
    _check_names(truth, images, database.keys)
    places = {_name(key): place for place, key in enumerate(database.keys)}
    keys = {name: database.keys[place] for name, place in places.items()}
    missing = [name for name in (*truth.imlist, *truth.qimlist) if _name(name) not in places]
    if missing:
        raise DataError(
            images.indexes[0].source.uri,
            f"{len(missing)} images of the ground truth are not there or unreadable: "
            f"{', '.join(missing[:NAMES_SHOWN])}",
            "every image of imlist and qimlist; the last part of a key, without its ending, is its name",
            "check landmarks.images and its key_column",
        )
    rows = torch.tensor([places[_name(name)] for name in truth.imlist])
    wanted = {keys[_name(name)] for name in truth.qimlist}
    encoded = _encoded(images.indexes[0], images.object_store, wanted)
    views = [
        _query_view(encoded[keys[_name(name)]], query, images, name)
        for name, query in zip(truth.qimlist, truth.gnd, strict=True)
    ]
    queries = [
        embed(torch.from_numpy(np.stack(views[start : start + images.images_per_batch])).to(device)).cpu()
        for start in range(0, len(views), images.images_per_batch)
    ]
    bank = F.normalize(database.features[rows].double(), dim=1)
    similarities = F.normalize(torch.cat(queries).double(), dim=1) @ bank.T
    ranked = similarities.argsort(dim=1, descending=True, stable=True).tolist()
    found = revisited_map(ranked, [query.model_dump(include={"easy", "hard", "junk"}) for query in truth.gnd])
    return {"map_percent": found, "queries": len(truth.qimlist), "database": len(truth.imlist)}


def _check_names(truth: GroundTruth, images: LabelledSet, keys: list[str]) -> None:
    """One image for each name of the ground truth: of two, the wrong one could be measured unseen."""
    wanted = {_name(name) for name in (*truth.imlist, *truth.qimlist)}
    seen: dict[str, str] = {}
    for key in keys:
        name = _name(key)
        if name in wanted and seen.setdefault(name, key) != key:
            raise DataError(
                images.indexes[0].source.uri,
                f"{seen[name]} and {key} are both called {name}",
                "one image for each name of imlist and qimlist",
                "leave one of them out of landmarks.images",
            )


def _name(key: str) -> str:
    return PurePosixPath(key).name.rsplit(".", 1)[0] if "." in key else PurePosixPath(key).name


def _encoded(index: SourceIndex, options: ObjectStoreSpec, wanted: set[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for fragment in range(index.num_fragments):
        keys = read_rows(index, fragment, None, options, ("key",))["key"].to_pylist()
        rows = np.array([row for row, key in enumerate(keys) if key in wanted], dtype=np.int64)
        if len(rows):
            table = read_rows(index, fragment, rows, options, ("key", "image"))
            found |= dict(zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True))
    return found


def _query_view(image: bytes, query: QueryTruth, images: LabelledSet, name: str) -> np.ndarray:
    try:
        decoded = decode_rgb(image, pixels_max=images.image_pixels_max)
    except UnreadableImage as error:
        raise DataError(name, f"cannot be decoded ({error})", "a readable query", "mend the image") from None
    height, width = decoded.shape[:2]
    left, upper, right, lower = (round(edge) for edge in query.bbx)
    left, upper, right, lower = max(0, left), max(0, upper), min(width, right), min(height, lower)
    if left >= right or upper >= lower:
        got = f"box {json.dumps(list(query.bbx))} in an image of {width} x {height}"
        raise DataError(name, got, "a box inside the image", "check bbx in the ground truth")
    return eval_view(np.ascontiguousarray(decoded[upper:lower, left:right]), images.image_size)
