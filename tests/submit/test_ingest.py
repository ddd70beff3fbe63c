"""`syn2co ingest` on a Ray cluster: the same bytes as one process makes, stop and resume, one clear error."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from syn2co_ray.data.index import build_index
from syn2co_ray.data.ingest import make_plan, make_shard
from syn2co_ray.data.ingest_files import MARKER
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.ingest import IngestSpec, ingest_spec
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec
from syn2co_ray.submit.ingest import run_ingest

from ..data.sources import parquet_bytes, put
from ..data.test_prepare import rows_of

pytestmark = pytest.mark.ray
STORE = ObjectStoreSpec()


def jpeg(number: int) -> bytes:
    """A 48 x 64 JPEG that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((64, 48)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_source(uri: str, images: int, bad: tuple[int, ...] = ()) -> None:
    table = pa.table(
        {
            "key": [f"k{n:04d}" for n in range(images)],
            "image": [b"broken" if n in bad else jpeg(n) for n in range(images)],
            "label": [n % 3 for n in range(images)],
        }
    )
    put(uri, "a.parquet", parquet_bytes(table, 16))


def run(spec: IngestSpec) -> str:
    """What a person sees."""
    text = io.StringIO()
    run_ingest(spec, Console(file=text, width=200))
    return text.getvalue()


def test_all_shards_once_missing_ones_again(ray_cluster: Any, tmp_path: Path) -> None:
    source, into = str(tmp_path / "source"), str(tmp_path / "into")
    write_source(source, 100, bad=(7,))
    spec = ingest_spec(
        {"source": {"uri": source}, "into": into, "shorter_side": 16, "rows_per_shard": 12}
        | {"quarantine_share_max": 0.01}
    )
    seen = run(spec)
    assert "100 images (image column 'image' (binary)" in seen
    assert "9 shards, 9 to make" in seen
    assert "9/9 shards  100 images" in seen
    assert "99 images in 9 shards, " in seen
    assert ", 1 unreadable (_quarantine.jsonl)" in seen
    assert f"train on it: {{uri: {into}, origin: real}}" in seen
    plan = make_plan(spec, build_index(spec.source, STORE))
    for number in range(9):
        assert Path(into, plan.file_of(number)).read_bytes() == make_shard(plan, number)[0]
    rows = rows_of(into)
    assert {(row["key"], row["label"]) for row in rows} == {
        (f"k{n:04d}", str(n % 3)) for n in range(100) if n != 7
    }
    assert {Image.open(io.BytesIO(row["image"])).size for row in rows} == {(21, 16)}
    index = build_index(SourceSpec(uri=into), STORE)
    assert (index.num_records, index.source.label_column, index.source.key_column) == (99, "label", "key")

    files = {path: path.stat().st_mtime_ns for path in Path(into).glob("part-*")}
    lost = Path(into, plan.file_of(4))
    lost.unlink()
    assert "9 shards, 1 to make" in run(spec)
    assert {path for path in files if path.stat().st_mtime_ns != files[path]} == {lost}
    assert "9 shards, 0 to make" in run(spec)


def test_what_tasks_meet_is_one_clear_error(ray_cluster: Any, tmp_path: Path, monkeypatch: Any) -> None:
    source = str(tmp_path / "source")
    write_source(source, 40, bad=(1, 2, 3))
    spec = ingest_spec({"source": {"uri": source}, "into": str(tmp_path / "into"), "rows_per_shard": 8})
    with pytest.raises(DataError, match=r"of 40 images cannot be decoded"):
        run(spec)
    spec = ingest_spec({"source": {"uri": source}, "into": str(tmp_path / "other")})
    index = build_index(spec.source, STORE)
    write_source(source, 41)
    monkeypatch.setattr("syn2co_ray.submit.ingest.build_index", lambda *_: index)
    with pytest.raises(DataError, match="the file changed after it was indexed"):
        run(spec)


def test_as_typed_stopped_and_typed_again(tmp_path: Path) -> None:
    source, into = str(tmp_path / "source"), tmp_path / "into"
    write_source(source, 600)
    words = ["ingest", "source", "into", "--shorter-side", "16", "--rows-per-shard", "1", "--quality", "80"]
    command = [sys.executable, "-m", "syn2co_ray.cli", *words]
    pipes: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "cwd": tmp_path,
    }
    with subprocess.Popen(command, **pipes) as process:
        deadline = time.monotonic() + 120
        while not list(into.glob("_ingest/part-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "whole shards stay: run the same command to make the rest" in told
    assert not (into / MARKER).exists()
    before = {path.name: path.stat().st_mtime_ns for path in into.glob("part-*")}
    assert 0 < len(before) < 600
    done = subprocess.run(command, timeout=300, **pipes)
    assert done.returncode == 0, done.stderr
    assert "600 images in 600 shards, " in done.stdout
    known = {path.name for path in into.glob("_ingest/part-*")}
    assert len(known) == 600
    kept = [name for name, time_ns in before.items() if (into / name).stat().st_mtime_ns == time_ns]
    assert len(kept) >= len(before) - 2  # a shard whose file was there, but not yet what is known about it
    assert len({row["key"] for row in rows_of(str(into))}) == 600
