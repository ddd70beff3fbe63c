"""Embeddings as Parquet files, each named by the hash of what decides its content.

    <folder>/<number>-<id>.parquet     key, source, file, row, label, content, embedding

A shard holds some whole fragments of one source; the id covers weights, view, form and these fragments
(paths, sizes, times of their files), not the rest of the source: files that are added later leave it as it
is. A shard is whole or absent; one that is damaged counts as absent. `content` is the hash of the encoded
image, `file` and `row` say where it stands.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..data.index import SourceIndex
from ..spec.errors import DataError
from ..storage import Store, list_files, publish_bytes, read_bytes, read_from
from ..storage.retry import is_from_store
from .features import Alter, Embed, fragment_groups
from .labelled import LabelledSet
from .shown import CONTENT_BYTES, shown_batches

FORMAT_VERSION = 2
IMAGES_PER_SHARD = 4096
UNREADABLE = b"unreadable"
ROWS_PER_GROUP = 65_536
LENGTH_MIN = 1e-12
"""Shorter embeddings are divided by this instead of their length."""


@dataclass(frozen=True)
class View:
    """How images are shown: the evaluation view, or that view altered."""

    name: str = "eval"
    """Says all that decides the alteration."""
    alter: Alter | None = None


@dataclass(frozen=True)
class Form:
    """How embeddings are stored."""

    dtype: Literal["float16", "float32"] = "float32"
    l2_normalised: bool = False


@dataclass(frozen=True)
class ShardPlan:
    """The shards of one source, in one view, by one network."""

    labelled: LabelledSet
    network_digest: str
    view: View = View()
    form: Form = Form()
    images_per_shard: int = IMAGES_PER_SHARD

    @property
    def index(self) -> SourceIndex:
        (index,) = self.labelled.indexes
        return index

    @cached_property
    def groups(self) -> list[list[int]]:
        """Fragments of each shard."""
        rows = self.index.fragment_rows
        return list(fragment_groups(range(len(rows)), rows, self.images_per_shard))

    def images_of(self, number: int) -> int:
        """Records of a shard, readable or not."""
        return int(self.index.fragment_rows[self.groups[number]].sum(dtype=np.int64))

    def file_of(self, number: int) -> str:
        """Name of a shard's file."""
        return f"{number:06d}-{self._id(self.groups[number])}.parquet"

    def _id(self, fragments: list[int]) -> str:
        source, index = self.index.source, self.index
        described = {
            "version": FORMAT_VERSION,
            "network": self.network_digest,
            "uri": source.uri,
            "columns": [source.image_column, source.label_column, source.key_column],
            "view": self.view.name,
            "image_size": self.labelled.image_size,
            "image_pixels_max": self.labelled.image_pixels_max,
            "form": [self.form.dtype, self.form.l2_normalised],
        }
        whole = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        times = index.file_modified_ns
        for fragment in fragments:
            file = index.fragment_file[fragment]
            place = f"{index.fragment_first_row[fragment]} {index.fragment_rows[fragment]}"
            time = "" if times is None else times[file]
            whole.update(f"\n{index.files[file]}\0{index.file_bytes[file]} {time} {place}".encode())
        return whole.hexdigest()[:16]


def make_shard(
    plan: ShardPlan, number: int, embed: Embed, device: torch.device, decode_threads: int = 2
) -> pa.Table:
    """Embeddings of one shard's readable images, in their order.

    Raises:
        DataError: a record without a label where labels are needed; a number that the form cannot hold.
    """
    parts: list[np.ndarray] = []
    kept: list[Any] = []
    unreadable: list[list[str]] = []
    groups = plan.groups[number]
    for batch in shown_batches(plan.labelled, plan.index, groups, plan.view.alter, decode_threads):
        unreadable += [[record.key, record.fault] for record in batch if record.view is None]
        shown = [record for record in batch if record.view is not None]
        if not shown:
            continue
        images = torch.from_numpy(np.stack([record.view for record in shown if record.view is not None]))
        found = _stored(embed(images.to(device)).float(), plan.form)
        if not np.isfinite(found).all():
            first = shown[int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])]
            raise _not_finite(plan, first.key)
        parts.append(found)
        kept += [(r.key, r.file, r.row, r.label, r.content) for r in shown]
    embeddings = np.concatenate(parts) if parts else np.zeros((0, 1), plan.form.dtype)
    keys, files, rows, labels, contents = zip(*kept, strict=True) if kept else ((),) * 5
    columns = {
        "key": pa.array(keys, pa.string()),
        "source": pa.array([plan.index.source.uri] * len(kept), pa.string()),
        "file": pa.array(files, pa.string()),
        "row": pa.array(rows, pa.int64()),
        "label": pa.array(labels, pa.string()),
        "content": pa.array(contents, pa.binary(CONTENT_BYTES)),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1]),
    }
    return pa.table(columns).replace_schema_metadata({UNREADABLE: json.dumps(unreadable).encode()})


def publish_shard(folder: Store, file: str, table: pa.Table) -> None:
    """Write a shard: it appears whole, or not at all."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        use_dictionary=["source", "file", "label"],
        write_page_checksum=True,
    )
    publish_bytes(folder, file, buffer.getvalue())


def read_shard(folder: Store, file: str, columns: list[str] | None = None) -> pa.Table:
    """A shard's table, its checksums verified.

    Raises:
        DataError: the file is damaged.
        StorageError: it cannot be read.
    """
    data = read_bytes(folder, file)
    try:
        return pq.read_table(io.BytesIO(data), columns=columns, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise damaged(folder, file, error) from None


def shard_footer(folder: Store, file: str) -> tuple[int, list[tuple[str, str]]]:
    """Rows of a shard, and its unreadable images as (key, reason); no embedding is read.

    Raises:
        DataError: the file is damaged.
        StorageError: it cannot be read.
    """

    def footer(opened: pa.NativeFile) -> tuple[int, list[tuple[str, str]]]:
        try:
            parquet = pq.ParquetFile(opened)
            return parquet.metadata.num_rows, _unreadable(parquet.schema_arrow)
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
            # In here: outside, an OSError is one of the store's.
            if is_from_store(error):
                raise
            raise damaged(folder, file, error) from None

    return read_from(folder, file, footer)


def damaged(folder: Store, file: str, error: Exception) -> DataError:
    """The error for a shard whose bytes are not those that were written."""
    words = (str(error).splitlines() or [type(error).__name__])[0]
    where, step = folder.child(file).uri, "delete it and run the job again: it makes what is missing"
    return DataError(where, f"damaged ({words})", "a whole Parquet file", step)


def unreadable_of(table: pa.Table) -> list[tuple[str, str]]:
    """Key and reason of each image of a shard that could not be decoded."""
    return _unreadable(table.schema)


def embeddings_of(table: pa.Table) -> np.ndarray:
    """(n, F) float32."""
    width = table.schema.field("embedding").type.list_size
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, width).astype(np.float32)


def whole_shards(
    folder: Store, plan: ShardPlan, log: Callable[[str], None]
) -> Iterator[tuple[int, pa.Table | None]]:
    """Number and table of each shard of a plan; None for one that is not there, or damaged."""
    there = {info.path for info in list_files(folder, recursive=False, missing_ok=True)}
    for number in range(len(plan.groups)):
        file = plan.file_of(number)
        if file not in there:
            yield number, None
            continue
        try:
            yield number, read_shard(folder, file)
        except DataError as error:
            log(f"{file} is damaged and made again ({error.fault.got})")
            yield number, None


def _unreadable(schema: pa.Schema) -> list[tuple[str, str]]:
    return [(key, reason) for key, reason in json.loads(schema.metadata[UNREADABLE])]


def _stored(embeddings: torch.Tensor, form: Form) -> np.ndarray:
    if form.l2_normalised:
        embeddings = embeddings / embeddings.norm(dim=1, keepdim=True).clamp_min(LENGTH_MIN)
    with np.errstate(over="ignore"):  # what does not fit is refused by its key
        return embeddings.cpu().numpy().astype(form.dtype)


def _not_finite(plan: ShardPlan, key: str) -> DataError:
    return DataError(
        f"{plan.index.source.uri}: {key}",
        f"its embedding is not finite as {plan.form.dtype}",
        "finite numbers",
        "look at the weights; if they are sound, use dtype: float32 or l2_normalised: true",
    )
