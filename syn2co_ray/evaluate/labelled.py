"""Labelled sources that features are evaluated on. Imports no torch: the driver checks them before a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data.index import SourceIndex, read_fragments
from ..spec.errors import DataError
from ..spec.source import ObjectStoreSpec


@dataclass(frozen=True)
class LabelledSet:
    """Indexed sources whose records all have labels, and how their images are read."""

    indexes: tuple[SourceIndex, ...]
    object_store: ObjectStoreSpec
    image_size: int
    image_pixels_max: int
    images_per_batch: int
    labels_needed: bool = True
    """False for sets that are searched without labels."""


def check_labelled(labelled: LabelledSet, where: str) -> None:
    """Look at the first record of each source, so that a set without labels is refused early.

    Raises:
        DataError: no label.
    """
    for index in labelled.indexes:
        table = read_fragments(index, [(0, np.arange(1))], labelled.object_store, threads=1)[0]
        if table["label"][0].as_py() is None:
            raise unlabelled(where, index, table["key"][0].as_py())


def unlabelled(where: str, index: SourceIndex, key: str) -> DataError:
    """The error for a record that has no label."""
    return DataError(
        where,
        f"{index.source.uri}: record {key} has no label",
        "a label for every record (label_column; class folders; .cls files)",
        "name the label column; a training (not an evaluation) may leave data.eval out instead",
    )
