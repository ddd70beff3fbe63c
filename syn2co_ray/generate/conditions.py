"""The lists that a job's slots go round: captions, and real records to vary."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.decode import decode_rgb
from ..data.index import SourceIndex, build_index, read_fragments
from ..spec.errors import DataError, Fault, SpecError
from ..spec.generate import GenerateSpec
from ..storage import list_files, open_store, read_bytes, read_from
from .duplicates import read_first_attempts
from .slots import Conditions, Slot

PIXELS_MAX = 100_000_000


@dataclass(frozen=True)
class RealRecords:
    """The records that are varied, by key."""

    index: SourceIndex
    place: dict[str, tuple[int, int]]
    """Key -> fragment and row in it."""

    def images(self, job: GenerateSpec, slots: Sequence[Slot]) -> list[np.ndarray]:
        """Decoded originals (H, W, 3) uint8 of slots.

        Raises:
            DataError: one that cannot be decoded, with its key.
        """
        images = []
        for slot in slots:
            assert slot.source_key is not None
            fragment, row = self.place[slot.source_key]
            request = [(fragment, np.array([row]))]
            table = read_fragments(self.index, request, job.object_store, threads=1)[0]
            try:
                images.append(decode_rgb(table["image"][0].as_py() or b"", pixels_max=PIXELS_MAX))
            except ValueError as error:
                where, step = f"variations_of, image {slot.source_key}", "remove or mend it"
                raise DataError(where, str(error), "a readable image", step) from None
        return images


def read_conditions(job: GenerateSpec) -> tuple[Conditions, RealRecords | None]:
    """Read captions, or the keys of the records to vary.

    Raises:
        DataError, StorageError: the source cannot be read, has no such column, or holds nothing.
    """
    records = None
    if job.variations_of is not None:
        conditions, records = _variations(job)
    elif job.prompts is not None and job.prompts.captions is not None:
        captions = _captions(job)
        digest = hashlib.sha256("\n".join(captions).encode()).hexdigest()
        conditions = Conditions(captions=captions, fingerprint=digest)
    else:
        conditions = Conditions()
    first_attempts = read_first_attempts(open_store(job.into, job.object_store))
    whole = "\n".join([conditions.fingerprint, *_fingerprints_of_gate(job)])
    return replace(conditions, fingerprint=whole, first_attempts=first_attempts), records


def _fingerprints_of_gate(job: GenerateSpec) -> list[str]:
    """What the gate compares with decides what it lets through."""
    embedding, options = job.gate.embedding, job.object_store
    sources = [*job.gate.duplicates_of, *([embedding.real] if embedding else [])]
    found = [build_index(source, options).fingerprint for source in sources]
    if embedding is not None:
        folder, _, name = embedding.encoder.weights.rpartition("/")
        weights = read_bytes(open_store(folder or ".", options), name)
        found.append(hashlib.sha256(weights).hexdigest())
    return found


def _captions(job: GenerateSpec) -> list[str]:
    prompts = job.prompts
    assert prompts is not None
    assert prompts.captions is not None
    store, column = open_store(prompts.captions.uri, job.object_store), prompts.caption_column
    captions: list[str] = []
    for info in list_files(store):
        if info.path.endswith(".parquet"):
            captions += read_from(store, info.path, lambda file: _texts(file, column, store.uri))
    if not captions:
        raise DataError(store.uri, "holds no caption", "Parquet files with one a row", "check the path")
    return captions


def _texts(file: pa.NativeFile, column: str, uri: str) -> list[str]:
    parquet = pq.ParquetFile(file)
    if column not in parquet.schema_arrow.names:
        names = ", ".join(parquet.schema_arrow.names)
        raise DataError(uri, f"a file without column {column!r}", names, "set prompts.caption_column")
    return [text for text in parquet.read([column])[column].to_pylist() if text]


def _variations(job: GenerateSpec) -> tuple[Conditions, RealRecords]:
    assert job.variations_of is not None
    index = build_index(job.variations_of, job.object_store)
    keys: list[str] = []
    labels: list[str | None] = []
    place: dict[str, tuple[int, int]] = {}
    requests: list[tuple[int, np.ndarray | None]] = [
        (fragment, None) for fragment in range(len(index.fragment_rows))
    ]
    tables = read_fragments(index, requests, job.object_store, threads=8, columns=("key", "label"))
    for fragment, table in enumerate(tables):
        for row, key in enumerate(table["key"].to_pylist()):
            keys.append(key)
            place[key] = (fragment, row)
        labels += table["label"].to_pylist()
    if len(place) < len(keys):
        got = f"{len(keys) - len(place)} keys occur twice"
        raise SpecError([Fault("variations_of", got, "records with keys of their own", "mend the source")])
    found = Conditions(source_keys=keys, source_labels=labels, fingerprint=index.fingerprint)
    return found, RealRecords(index, place)
