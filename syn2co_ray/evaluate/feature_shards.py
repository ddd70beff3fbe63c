"""Features of a labelled source by one network, kept as shards in the job's folder and found again.

A job that was stopped makes only what is missing, and other protocols find what is there: see `shard_files`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor, nn

from ..data.index import SourceIndex, read_fragments
from ..spec.errors import DataError
from ..spec.source import ObjectStoreSpec
from ..storage import Store
from .features import Embed, fragment_groups
from .labelled import LabelledSet
from .shard_files import (
    IMAGES_PER_SHARD,
    ShardPlan,
    View,
    embeddings_of,
    make_shard,
    publish_shard,
    unreadable_of,
    whole_shards,
)
from .shown import content_hash

__all__ = ["FOLDER", "FeatureSet", "Network", "View", "content_hash", "contents_of", "feature_set"]

FOLDER = "features"


@dataclass(frozen=True)
class Network:
    """Something that embeds, and the digest that names it."""

    name: str
    digest: str
    embed: Embed
    backbone: nn.Module | None = None
    """What can learn on; None for raw pixels."""


@dataclass(frozen=True)
class FeatureSet:
    """All readable images of a source, in its order."""

    keys: list[str]
    labels: list[str]
    contents: list[bytes]
    features: Tensor
    """(M, F) float32."""
    unreadable: list[str]
    """Keys of images that cannot be decoded."""


def feature_plan(labelled: LabelledSet, network_digest: str, view: View) -> ShardPlan:
    """The shards that `feature_set` reads, whoever makes them."""
    return ShardPlan(labelled, network_digest, view, images_per_shard=IMAGES_PER_SHARD)


def feature_set(
    store: Store,
    labelled: LabelledSet,
    network: Network,
    device: torch.device,
    log: Callable[[str], None],
    view: View = View(),
    should_stop: Callable[[], bool] = lambda: False,
) -> FeatureSet | None:
    """Make the shards that are missing and read all of them.

    Args:
        store: the job's folder.
        labelled: one indexed source.
        network: what embeds.
        device: where.
        log: gets a line for each shard that is made.
        view: how images are shown.
        should_stop: asked before each shard.

    Returns:
        The set; None when it was told to stop.

    Raises:
        DataError: a record without a label, or no image that can be read.
    """
    plan, folder = feature_plan(labelled, network.digest, view), store.child(FOLDER)
    tables = []
    for number, table in whole_shards(folder, plan, log):
        if table is None:
            if should_stop():
                return None
            table = make_shard(plan, number, network.embed, device)
            publish_shard(folder, plan.file_of(number), table)
            log(
                f"features: {network.name}, {view.name} view of {plan.index.source.uri}, "
                f"shard {number + 1} of {len(plan.groups)}, {table.num_rows:,} images"
            )
        tables.append(table)
    return _joined(tables, plan.index)


def contents_of(index: SourceIndex, options: ObjectStoreSpec) -> Iterator[bytes]:
    """Content hashes of all images of a source, which need no labels and are not decoded."""
    for group in fragment_groups(range(len(index.fragment_rows)), index.fragment_rows, IMAGES_PER_SHARD):
        for table in read_fragments(index, [(f, None) for f in group], options, 4, ("key", "image")):
            for image in table["image"]:
                yield content_hash(image.as_py() or b"")


def _joined(tables: list[pa.Table], index: SourceIndex) -> FeatureSet:
    unreadable = [key for table in tables for key, _ in unreadable_of(table)]
    tables = [table for table in tables if table.num_rows]
    if not tables:
        raise DataError(
            index.source.uri, "no image could be decoded", "at least one", "check the files of this source"
        )
    whole = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    return FeatureSet(
        whole["key"].to_pylist(),
        whole["label"].to_pylist(),
        whole["content"].to_pylist(),
        torch.from_numpy(embeddings_of(whole)),
        unreadable,
    )
