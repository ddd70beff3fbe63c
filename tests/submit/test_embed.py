"""`kind: embed`: one row a key whatever happens, resuming, growing, searches, one page."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from syn2co_ray.evaluate.shard_actor import FeatureActor
from syn2co_ray.spec.errors import CheckpointError, DataError, RunInterrupted, SpecError
from syn2co_ray.spec.identity import run_name
from syn2co_ray.spec.load import load_text
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import exists, list_files, open_store
from syn2co_ray.submit import embed, embedding_shards, feature_actors
from syn2co_ray.submit.embed import run_embed
from syn2co_ray.submit.similar import duplicate_lines, neighbour_lines

from ..data.sources import parquet_bytes, put

pytest.importorskip("faiss", reason="needs the extra `embed`")

JOB = """\
kind: embed
name: digits
storage: {folder}/runs
weights:
  random_seed: 0
  backbone: vit_tiny_patch16_224
  patch_size: 4
  backbone_options: {{embed_dim: 32, depth: 2, num_heads: 2}}
  image_size: 8
sources: [{{uri: {folder}/images}}]
images_per_shard: 20
images_per_batch: 16
near_duplicates: {{similarity_min: 0.9999}}
neighbours: {{k: 3, images_shown: 4}}
"""


def encoded(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, form, **options)
    return buffer.getvalue()


def digit(number: int) -> np.ndarray:
    """A real handwritten digit, (8, 8) uint8."""
    return (load_digits().images[number] * 15.9375).astype(np.uint8)


def write_digits(uri: str, numbers: range, file: str = "a.parquet", rows_per_group: int = 10) -> None:
    rows = [(f"digit-{n:04d}", encoded(digit(n)), str(load_digits().target[n])) for n in numbers]
    columns = dict(zip(("key", "image", "label"), map(list, zip(*rows, strict=True)), strict=True))
    put(uri, file, parquet_bytes(pa.table(columns), rows_per_group))


def job(folder: Path, *overrides: str) -> Any:
    return load_text(JOB.format(folder=folder), overrides)


def said(spec: Any) -> tuple[dict[str, Any], str]:
    out = io.StringIO()
    return run_embed(spec, Console(file=out, width=300)), out.getvalue()


def rows_of(spec: Any) -> dict[str, dict[str, Any]]:
    """Rows of the shards that the manifest names, by key; no key stands twice."""
    folder = Path(spec.storage) / run_name(spec) / "embeddings"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {shard["file"] for shard in manifest["shards"]} == {p.name for p in folder.glob("*.parquet")}
    rows = [row for shard in manifest["shards"] for row in pq.read_table(folder / shard["file"]).to_pylist()]
    assert len({row["key"] for row in rows}) == len(rows) == manifest["images"]
    return {row["key"]: row for row in rows}


def shard_times(spec: Any) -> dict[str, int]:
    folder = Path(spec.storage) / run_name(spec) / "embeddings"
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor's own work in this process, without a cluster."""

    @contextlib.contextmanager
    def no_cluster(**options: Any) -> Iterator[None]:
        yield None

    def rows(assignment: Any, missing: Any, actors: Any) -> Iterator[dict[str, Any]]:
        actor = FeatureActor([assignment], "cpu", 1)
        for task, shard in missing:
            yield actor.make(task, shard)

    monkeypatch.setattr(embed, "connected", no_cluster)
    monkeypatch.setattr(embed, "check_actors", lambda actors, cluster: None)
    monkeypatch.setattr(feature_actors, "_rows", rows)


def test_a_row_a_key_counted_searched_and_shown(here: None, tmp_path: Path) -> None:
    write_digits(f"{tmp_path}/images", range(70))
    spec = job(tmp_path)
    results, text = said(spec)
    rows = rows_of(spec)
    assert list(rows) == [f"digit-{n:04d}" for n in range(70)]
    assert {row["source"] for row in rows.values()} == {f"{tmp_path}/images"}
    assert [row["row"] for row in rows.values()] == list(range(70))
    lengths = np.linalg.norm([np.float32(row["embedding"]) for row in rows.values()], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=2e-3)
    assert (results["images"], results["shards"], results["features"]) == (70, 4, 32)
    assert "4/4 shards  70 images" in text
    assert "ETA 0 s" in text
    page = (tmp_path / "runs" / run_name(spec) / "report.html").read_text()
    assert "<h2>Nearest neighbours</h2>" in page
    assert page.count('src="data:image/jpeg;base64,') >= 4 * 4
    before = shard_times(spec)
    again, text = said(spec)
    assert again == results
    assert "4 shards, 0 to make" in text
    assert shard_times(spec) == before


def test_images_embeddings_and_pages_may_be_in_any_store(here: None, place: str) -> None:
    write_digits(f"{place}/images", range(25))
    spec = load_text(JOB.format(folder=place), ())
    results, _ = said(spec)
    assert (results["images"], results["shards"]) == (25, 2)
    folder = open_store(f"{place}/runs/{run_name(spec)}", ObjectStoreSpec())
    for file in ("report.html", "results.json", "embeddings/manifest.json"):
        assert exists(folder, file), file
    made = [info.path for info in list_files(folder.child("embeddings"))]
    assert len(made) == 3
    again, text = said(spec)
    assert again == results
    assert "2 shards, 0 to make" in text
    assert [info.path for info in list_files(folder.child("embeddings"))] == made


def test_other_searches_are_made_over_what_is_there(here: None, tmp_path: Path) -> None:
    write_digits(f"{tmp_path}/images", range(60))
    first, _ = said(job(tmp_path))
    spec = job(tmp_path, "near_duplicates={similarity_min: 0.9}", "neighbours=null")
    results, text = said(spec)
    assert "0 to make" in text
    assert results["near_duplicates"]["pairs"] > first["near_duplicates"]["pairs"]
    assert results["made"] == first["made"]
    few, text = said(job(tmp_path, "near_duplicates={images_max: 59}"))
    assert "near_duplicates" not in few
    assert "warning: not searched: 60 images are more than near_duplicates.images_max 59" in text


def test_a_search_that_was_killed_is_made_again_over_what_was_added(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(f"{tmp_path}/images", range(30))
    spec = job(tmp_path)
    said(spec)
    write_digits(f"{tmp_path}/images", range(30, 50), "b.parquet")

    def killed(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("syn2co_ray.evaluate.similar.near_duplicates", killed)
        with pytest.raises(MemoryError):
            said(spec)
    results, text = said(spec)
    assert "0 to make" in text
    assert results["images"] == 50
    assert "near_duplicates" in results
    assert len(rows_of(spec)) == 50


def test_a_stop_keeps_whole_shards_and_the_same_command_makes_the_rest(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(f"{tmp_path}/images", range(100))
    spec = job(tmp_path)
    with monkeypatch.context() as patch:
        made = embedding_shards.made_by_actors

        def two(*given: Any) -> Iterator[Any]:
            asked: list[int] = []
            for row in made(*given[:-1], lambda: len(asked) == 2):
                asked.append(1)
                yield row

        patch.setattr(embedding_shards, "made_by_actors", two)
        with pytest.raises(RunInterrupted, match="whole shards stay: run the same command"):
            said(spec)
    before = shard_times(spec)
    assert 0 < len(before) < 5
    _, text = said(spec)
    assert f"5 shards, {5 - len(before)} to make" in text
    assert before.items() <= shard_times(spec).items()
    assert len(rows_of(spec)) == 100


def test_what_is_added_is_made_what_went_is_dropped_what_is_damaged_is_made_again(
    here: None, tmp_path: Path
) -> None:
    write_digits(f"{tmp_path}/images", range(60))
    spec = job(tmp_path)
    said(spec)
    before = shard_times(spec)
    write_digits(f"{tmp_path}/images", range(60, 100), "b.parquet")
    results, text = said(spec)
    assert "100 images in 5 shards, 2 to make" in text
    assert before.items() <= shard_times(spec).items()
    assert len(rows_of(spec)) == results["images"] == 100
    victim = Path(spec.storage) / run_name(spec) / "embeddings" / next(iter(before))
    victim.write_bytes(victim.read_bytes()[:-30])
    (tmp_path / "images/b.parquet").unlink()
    results, text = said(spec)
    assert "is damaged and made again" in text
    assert "60 images in 3 shards, 1 to make" in text
    assert list(rows_of(spec)) == [f"digit-{n:04d}" for n in range(60)]


def test_bad_images_are_listed_and_have_a_limit_and_repeated_keys_are_said(
    here: None, tmp_path: Path
) -> None:
    write_digits(f"{tmp_path}/images", range(30))
    columns = {"key": ["bad", "digit-0003"], "image": [b"\x89PNG broken", encoded(digit(50))]}
    put(f"{tmp_path}/more", "a.parquet", parquet_bytes(pa.table(columns)))
    both = f"sources=[{{uri: {tmp_path}/images}}, {{uri: {tmp_path}/more}}]"
    with pytest.raises(DataError, match=r"1 of 32 images cannot be decoded, such as bad \(.*PNG"):
        said(job(tmp_path, both))
    results, text = said(job(tmp_path, both, "quarantine_share_max=0.1"))
    assert (results["images"], results["unreadable"], results["keys_repeated"]) == (31, 1, 1)
    assert "1 keys stand more than once in the sources, such as digit-0003" in text
    (folder,) = (tmp_path / "runs").glob("digits-*/results.json")
    (line,) = (folder.parent / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "bad"


def test_weights_that_moved_on_and_a_missing_library_are_refused_at_once(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(f"{tmp_path}/images", range(20))
    spec = job(tmp_path)
    said(spec)
    begun = Path(spec.storage) / run_name(spec) / "provenance.json"
    moved = json.loads(begun.read_text())
    moved["weights"]["digest"] = "0" * 64
    begun.write_text(json.dumps(moved))
    with pytest.raises(CheckpointError, match="give the job another name"):
        said(spec)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SpecError, match=r"near_duplicates: asked for, without faiss.*syn2co_ray\[embed\]"):
        said(job(tmp_path, "name=other"))
    results, _ = said(job(tmp_path, "name=other", "near_duplicates=null", "neighbours=null"))
    assert results["images"] == 20


def test_planted_duplicates_and_neighbours_are_found_by_the_commands(here: None, tmp_path: Path) -> None:
    """Ten real digits once more as WebP of other bytes and equal pixels, among 100."""
    write_digits(f"{tmp_path}/images", range(100))
    copies = {
        "key": [f"copy-{n:04d}" for n in range(0, 100, 10)],
        "image": [encoded(digit(n), "WEBP", lossless=True) for n in range(0, 100, 10)],
        "label": ["copy"] * 10,
    }
    put(f"{tmp_path}/images", "copies.parquet", parquet_bytes(pa.table(copies)))
    spec = job(tmp_path)
    results, _ = said(spec)
    uri = f"{spec.storage}/{run_name(spec)}"
    pairs = pq.read_table(f"{uri}/near_duplicates.parquet").to_pylist()
    found = {(pair["key_a"], pair["key_b"]) for pair in pairs if pair["similarity"] > 0.999999}
    assert found == {(f"digit-{n:04d}", f"copy-{n:04d}") for n in range(0, 100, 10)}
    assert results["near_duplicates"]["removable"] >= 10
    options, sheet = ObjectStoreSpec(), str(tmp_path / "sheet.html")
    lines = list(duplicate_lines(f"{uri}/embeddings/", 0.999999, 1000, 8, sheet, options))
    assert lines[0].startswith("10 pairs of similarity 0.999999 or more, in 10 groups; 10 images repeat")
    assert Path(sheet).read_text().count("data:image/jpeg") == 16
    lines = list(neighbour_lines(uri, "digit-0030", "", 4, sheet, options))
    assert lines[0].startswith("1.0000  copy-0030  label copy")
    assert len(lines) == 5
    (tmp_path / "asked.png").write_bytes(encoded(digit(50)))
    by_file = list(neighbour_lines(uri, "", str(tmp_path / "asked.png"), 2, sheet, options))
    assert {line.split()[1] for line in by_file[:2]} == {"digit-0050", "copy-0050"}
    for given in (("", ""), ("digit-0030", "x.png")):
        with pytest.raises(SpecError, match="one of them"):
            list(neighbour_lines(uri, *given, 2, sheet, options))
    with pytest.raises(DataError, match="'nobody' is no key of this set"):
        list(neighbour_lines(uri, "nobody", "", 2, sheet, options))
    shutil.rmtree(tmp_path / "images")  # the pictures are gone, the answers are not
    lines = list(neighbour_lines(uri, "digit-0030", "", 4, sheet, options))
    assert lines[0].startswith("1.0000  copy-0030")
    assert Path(sheet).read_text().count("not there now") == 5


def wait_for_shards(spec: Any, count: int, timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while len(shard_times(spec)) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(shard_times(spec))} shards after {timeout_s:g} s")
        time.sleep(0.02)


def assert_same(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    """Equal rows, embeddings to 1e-5: threads of another process may sum in another order."""
    assert list(found) == list(expected)
    for key, row in found.items():
        np.testing.assert_allclose(row.pop("embedding"), expected[key]["embedding"], atol=1e-5)
        assert row == {name: value for name, value in expected[key].items() if name != "embedding"}


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_actor_costs_nothing(
    ray_cluster: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    write_digits(f"{tmp_path}/images", range(800), rows_per_group=4)
    options = ["images_per_shard=4", "near_duplicates=null", "neighbours=null", "dtype=float32"]
    two = job(tmp_path, *options, f"storage={tmp_path}/two", "actors=2")
    killed: list[int] = []

    def kill() -> None:
        wait_for_shards(two, 10)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if not killed and "FeatureActor" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    said(two)
    killer.join()
    assert killed
    found = rows_of(two)
    assert list(found) == [f"digit-{n:04d}" for n in range(800)]
    request.getfixturevalue("here")
    one = job(tmp_path, *options)
    said(one)
    assert_same(found, rows_of(one))


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_driver_is_followed_by_the_same_command_with_more_actors(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    write_digits(f"{tmp_path}/images", range(1200), rows_per_group=2)
    options = ["images_per_shard=2", "dtype=float32"]
    spec = job(tmp_path, *options)
    (tmp_path / "job.yaml").write_text(JOB.format(folder=tmp_path))
    command = [sys.executable, "-m", "syn2co_ray.cli", "run", "job.yaml", *options]
    pipes: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "cwd": tmp_path,
    }
    with subprocess.Popen(command, **pipes) as process:
        wait_for_shards(spec, 10)
        process.kill()
        process.communicate(timeout=120)
    before = shard_times(spec)
    assert 10 <= len(before) < 600
    done = subprocess.run([*command, "actors=2"], timeout=500, **pipes)
    assert done.returncode == 0, done.stderr
    assert "600 shards" in done.stdout
    assert before.items() <= shard_times(spec).items()
    found = rows_of(spec)
    assert len(found) == 1200
    request.getfixturevalue("here")
    alone = job(tmp_path, *options, f"storage={tmp_path}/alone")
    said(alone)
    assert_same(found, rows_of(alone))
