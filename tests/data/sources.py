"""Small sources of real encoded images, written to any place, together with the records they must give."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store, publish_bytes

OPTIONS = ObjectStoreSpec()


@dataclass(frozen=True)
class Expected:
    """One record of a source, as the reader must give it."""

    key: str
    image: bytes
    label: str | None


def png(number: int) -> bytes:
    """A 4 x 4 RGB PNG that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def put(uri: str, name: str, data: bytes) -> None:
    """Write a file below `uri`."""
    publish_bytes(open_store(uri, OPTIONS), name, data)


def parquet_bytes(table: pa.Table, rows_per_group: int = 10) -> bytes:
    """The table as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=rows_per_group)
    return buffer.getvalue()


def tar_bytes(members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    """The members, in order, as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_parquet(uri: str) -> list[Expected]:
    """Three files of 25, 10 and 7 rows in row groups of 10, with key, image and integer label."""
    records, start = [], 0
    for number, rows in enumerate((25, 10, 7)):
        mine = [Expected(f"key-{n:03d}", png(n), str(n % 3)) for n in range(start, start + rows)]
        columns = {
            "key": [record.key for record in mine],
            "image": [record.image for record in mine],
            "label": pa.array([int(record.label or 0) for record in mine], pa.int32()),
            "unrelated": [0.5] * rows,
        }
        put(uri, f"part-{number}.parquet", parquet_bytes(pa.table(columns)))
        records += mine
        start += rows
    return records


def write_webdataset(uri: str) -> list[Expected]:
    """Two tars of 70 and 5 samples: .png, a label in .cls or .json, here and there another member."""
    records, start = [], 0
    for number, count in enumerate((70, 5)):
        members = []
        for n in range(start, start + count):
            key, label = f"folder{n % 2}/sample{n:03d}", str(n % 3)
            in_json = n % 5 == 0
            text = json.dumps({"label": int(label)}) if in_json else f"{label}\n"
            members += [(f"{key}.png", png(n)), (f"{key}.json" if in_json else f"{key}.cls", text.encode())]
            members += [(f"{key}.seg.png", b"not the image")] * (n % 4 == 0)
            records.append(Expected(key, png(n), label))
        put(uri, f"shard-{number}.tar", tar_bytes(members))
        start += count
    return records


def write_folder(uri: str) -> list[Expected]:
    """Twelve images in three class folders, one of them a level deeper."""
    records = []
    for n in range(12):
        label = ("cat", "dog", "owl")[n % 3]
        path = f"{label}/{n:02d}.PNG" if n != 5 else f"{label}/deeper/{n:02d}.png"
        put(uri, path, png(n))
        records.append(Expected(path, png(n), label))
    return sorted(records, key=lambda record: record.key)


WRITERS = {"parquet": write_parquet, "webdataset": write_webdataset, "folder": write_folder}
