"""Embedding: `kind: embed` beside the loop that a user would write, over the same files, in one run.

    python tests/benchmarks/bench_embed.py [--quick]

Caltech-101's test photos (JPEG, about 300 x 200; from the shared reference folder, SYN2CO_SHARED), a random
ViT-Ti/16 at 112 pixels, on CPUs, one thread for the network in every process; images a second of

    loop      one process: read a file, decode, view, batches of 64 through the network, write Parquet
    job, 1    `syn2co run` with one actor of one CPU: Ray, decoding beside the network, shards, checksums
    job, 2    the same with two actors

The loop is measured before and after the jobs. Two figures of a job: from its first shard on, as it goes on for
long (the first shard of each actor is left out); and of the whole command, Ray's start included. Embeddings of job and loop are compared as well.

Predicted before measuring, on two quiet cores: one actor 1.1 times the loop (decoding, a sixth of the loop's
time, runs beside the network on the other core; Ray and shards cost some), two actors 1.7 times (then two cores
hold two networks and two decoders). The whole command pays about 20 s of start-up once. On a busy machine only
the ratios of one run say something.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from syn2co_ray.augment.eval_view import eval_view
from syn2co_ray.data.decode import decode_rgb
from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.methods.normalise import normalise
from syn2co_ray.spec.embed import EmbedSpec
from syn2co_ray.spec.identity import run_name

SIZE, BATCH = 112, 64
SHARED = Path(os.environ.get("SYN2CO_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def spec_of(folder: Path, source: Path, actors: int) -> EmbedSpec:
    return EmbedSpec.model_validate(
        {
            "kind": "embed",
            "name": f"bench-{actors}",
            "storage": str(folder),
            "weights": {"random_seed": 0, "backbone": "vit_tiny_patch16_224", "image_size": SIZE},
            "sources": [{"uri": str(source)}],
            "dtype": "float32",
            "l2_normalised": False,
            "images_per_shard": 128,
            "images_per_batch": BATCH,
            "actors": actors,
            "near_duplicates": None,
            "neighbours": None,
        }
    )


def copied(source: Path, images: int, into: Path) -> list[Path]:
    """The first images in files of 64 rows, so that both sides read the same."""
    rows = pq.read_table(source, columns=["image"]).slice(0, images)["image"].combine_chunks()
    encoded = rows.field("bytes") if pa.types.is_struct(rows.type) else rows
    into.mkdir()
    files = []
    for first in range(0, len(encoded), BATCH):
        some = encoded.slice(first, BATCH)
        keys = [f"image-{first + place:06d}" for place in range(len(some))]
        files.append(into / f"part-{first:06d}.parquet")
        pq.write_table(pa.table({"key": keys, "image": some}), files[-1])
    return files


def loop(spec: EmbedSpec, files: list[Path], into: Path) -> tuple[float, np.ndarray]:
    """Images a second of the plain loop, and what it embedded."""
    network = load_backbone(spec.weights, spec.object_store).network
    found, keys = [], []
    started = time.perf_counter()
    for file in files:
        rows = pq.read_table(file).to_pylist()
        views = [eval_view(decode_rgb(row["image"], pixels_max=10**8), SIZE) for row in rows]
        with torch.inference_mode():
            found.append(network(normalise(torch.from_numpy(np.stack(views)))).numpy())
        keys += [row["key"] for row in rows]
    embeddings = np.concatenate(found)
    pq.write_table(pa.table({"key": keys, "embedding": list(embeddings)}), into)
    return len(keys) / (time.perf_counter() - started), embeddings


def job(spec: EmbedSpec) -> tuple[float, float, np.ndarray]:
    """Images a second from the first shard on, of the whole command, and what it embedded."""
    from syn2co_ray.submit.embed import run_embed

    started = time.perf_counter()
    results: dict[str, Any] = run_embed(spec, Console(file=io.StringIO()))
    whole = results["images"] / (time.perf_counter() - started)
    folder = Path(spec.storage) / run_name(spec) / "embeddings"
    times = sorted(
        (file.stat().st_mtime, pq.read_metadata(file).num_rows) for file in folder.glob("*.parquet")
    )
    actors = spec.actors.max  # their first shards were begun before the clock is
    steady = sum(rows for _, rows in times[actors:]) / (times[-1][0] - times[actors - 1][0])
    tables = [pq.read_table(file, columns=["key", "embedding"]) for file in sorted(folder.glob("*.parquet"))]
    table = pa.concat_tables([table.replace_schema_metadata(None) for table in tables]).sort_by("key")
    return steady, whole, np.array(table["embedding"].to_pylist(), np.float32)


def main(images: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = copied(SHARED / "data/caltech101/test-00000-of-00001.parquet", images, folder / "images")
        specs = {actors: spec_of(folder / "runs", folder / "images", actors) for actors in (1, 2)}
        before, expected = loop(specs[1], files, folder / "loop.parquet")
        measured = {actors: job(spec) for actors, spec in specs.items()}
        after, _ = loop(specs[1], files, folder / "loop.parquet")
    mean = (before + after) / 2
    print(f"loop                {mean:7.1f} images/s (before and after: {before:.1f}, {after:.1f})")
    for actors, (steady, whole, found) in measured.items():
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        print(
            f"job, {actors} actor(s)     {steady:7.1f} images/s, {steady / mean:.2f} x the loop; whole command "
            f"{whole:.1f}; largest difference {difference:.1e} of the largest number"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer images")
    main(768 if parser.parse_args().quick else 2816)
