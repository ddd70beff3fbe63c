"""Features of a labelled source by one network, kept as Parquet in the job's folder and found again.

    features/<id>-00000.parquet     key, label, content (hash of the encoded image), feature

A shard holds some whole fragments. Its id is the hash of what decides its content: weights, data set, view;
so a job that was stopped makes only what is missing, and other protocols find what is there. A shard is whole
or absent; one that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from ..data.index import SourceIndex, read_fragments
from ..spec.errors import DataError, StorageError
from ..spec.source import ObjectStoreSpec
from ..storage import Store, exists, publish_bytes, read_bytes
from .features import Alter, Embed, embedded, fragment_groups
from .labelled import LabelledSet

FORMAT_VERSION = 1
FOLDER = "features"
IMAGES_PER_SHARD = 4096
CONTENT_BYTES = 16
UNREADABLE = b"unreadable"


@dataclass(frozen=True)
class Network:
    """Something that embeds, and the digest that names it."""

    name: str
    digest: str
    embed: Embed
    backbone: nn.Module | None = None
    """What can learn on; None for raw pixels."""


@dataclass(frozen=True)
class View:
    """How images are shown: the evaluation view, or that view altered."""

    name: str = "eval"
    """Says all that decides the alteration."""
    alter: Alter | None = None


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


def content_hash(image: bytes) -> bytes:
    """What tells encoded images apart."""
    return hashlib.blake2b(image, digest_size=CONTENT_BYTES).digest()


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
    (index,) = labelled.indexes
    name = shard_id(labelled, index, network, view)
    groups = list(fragment_groups(range(len(index.fragment_rows)), index.fragment_rows, IMAGES_PER_SHARD))
    tables = []
    with ThreadPoolExecutor(max_workers=2) as decoders:
        for number, fragments in enumerate(groups):
            file = f"{name}-{number:05d}.parquet"
            table = _there(store, file, log)
            if table is None:
                if should_stop():
                    return None
                table = _made(labelled, index, fragments, network, view, device, decoders)
                publish_bytes(store.child(FOLDER), file, _parquet_bytes(table))
                log(
                    f"features: {network.name}, {view.name} view of {index.source.uri}, "
                    f"shard {number + 1} of {len(groups)}, {table.num_rows:,} images"
                )
            tables.append(table)
    return _joined(tables, index)


def shard_id(labelled: LabelledSet, index: SourceIndex, network: Network, view: View) -> str:
    """16 hex digits for what decides the content of a source's shards."""
    times = index.file_modified_ns
    described = {
        "version": FORMAT_VERSION,
        "network": network.digest,
        "data": index.fingerprint,
        "uri": index.source.uri,
        "columns": [index.source.image_column, index.source.label_column, index.source.key_column],
        "modified": None if times is None else hashlib.sha256(times.tobytes()).hexdigest(),
        "view": view.name,
        "image_size": labelled.image_size,
        "image_pixels_max": labelled.image_pixels_max,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def contents_of(index: SourceIndex, options: ObjectStoreSpec) -> Iterator[bytes]:
    """Content hashes of all images of a source, which need no labels and are not decoded."""
    for group in fragment_groups(range(len(index.fragment_rows)), index.fragment_rows, IMAGES_PER_SHARD):
        for table in read_fragments(index, [(f, None) for f in group], options, 4, ("key", "image")):
            for image in table["image"]:
                yield content_hash(image.as_py() or b"")


def _made(
    labelled: LabelledSet,
    index: SourceIndex,
    fragments: list[int],
    network: Network,
    view: View,
    device: torch.device,
    decoders: ThreadPoolExecutor,
) -> pa.Table:
    parts, keys, unreadable = [], [], []
    for group in fragment_groups(fragments, index.fragment_rows, labelled.images_per_batch):
        found = embedded(labelled, index, group, {network.name: network.embed}, device, decoders, view.alter)
        if found.rows:
            parts.append(found.features[network.name])
        keys += found.rows
        unreadable += found.unreadable
    features = torch.cat(parts).numpy() if parts else np.zeros((0, 1), np.float32)
    columns = {
        "key": pa.array([row["key"] for row in keys], pa.string()),
        "label": pa.array([row["label"] for row in keys], pa.string()),
        "content": pa.array([content_hash(row["image"]) for row in keys], pa.binary(CONTENT_BYTES)),
        "feature": pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1]),
    }
    return pa.table(columns).replace_schema_metadata({UNREADABLE: json.dumps(unreadable).encode()})


def _parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _there(store: Store, file: str, log: Callable[[str], None]) -> pa.Table | None:
    folder = store.child(FOLDER)
    if not exists(folder, file):
        return None
    try:
        return pq.read_table(io.BytesIO(read_bytes(folder, file)), page_checksum_verification=True)
    except (OSError, pa.ArrowException, StorageError) as error:
        log(f"{file} is damaged and made again ({str(error).splitlines()[0]})")
        return None


def _joined(tables: list[pa.Table], index: SourceIndex) -> FeatureSet:
    unreadable = [key for table in tables for key in json.loads(table.schema.metadata[UNREADABLE])]
    tables = [table for table in tables if table.num_rows]
    if not tables:
        raise DataError(
            index.source.uri, "no image could be decoded", "at least one", "check the files of this source"
        )
    whole = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    width = whole.schema.field("feature").type.list_size
    flat = whole["feature"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return FeatureSet(
        whole["key"].to_pylist(),
        whole["label"].to_pylist(),
        whole["content"].to_pylist(),
        torch.from_numpy(flat.reshape(-1, width).copy()),
        unreadable,
    )
