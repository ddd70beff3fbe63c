"""Whole jobs on a Ray cluster: exact counts, resume, one writer's content, and what training reads."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from syn2co_ray.data.index import build_index, read_fragments
from syn2co_ray.data.prepare import run_prepare
from syn2co_ray.generate.difference import compare
from syn2co_ray.generate.duplicates import repeated
from syn2co_ray.generate.gate import Gate, differing_bits
from syn2co_ray.generate.pipeline import ImageMaker
from syn2co_ray.generate.shards import make_shard
from syn2co_ray.generate.slots import Conditions, shard_of
from syn2co_ray.generate.weights import local_pipeline
from syn2co_ray.spec.data import DigitsStep
from syn2co_ray.spec.errors import DataError, ResourceError, SpecError
from syn2co_ray.spec.generate import GenerateSpec
from syn2co_ray.spec.identity import resolved
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec
from syn2co_ray.submit.generate import run_generate
from syn2co_ray.submit.one_image import one_image

from .conftest import MakeJob

STORE = ObjectStoreSpec()


def run(job: GenerateSpec) -> str:
    """What a person sees."""
    text = io.StringIO()
    run_generate(job, Console(file=text, width=200))
    return text.getvalue()


def rows_of(folder: str | Path) -> list[dict[str, Any]]:
    return [row for file in sorted(Path(folder).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def files_of(folder: str | Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(Path(folder).glob("*.parquet"))}


@pytest.mark.ray
def test_a_job_makes_each_image_once_and_a_second_run_only_what_is_missing(
    ray_cluster: Any, make_job: MakeJob
) -> None:
    actors = {"min": 1, "max": 2, "cpus_each": 0.5}
    job = make_job("class_conditional", images=20, images_per_shard=8, images_per_batch=1, actors=actors)
    said = run(job)
    assert "20 images in 3 shards, 3 to make" in said
    assert "20 images whole, 0 refused and made again" in said
    rows, files = rows_of(job.into), files_of(job.into)
    assert [int(row["key"].rpartition("-")[2]) for row in rows] == list(range(20))
    assert len({row["key"] for row in rows}) == len({row["image"] for row in rows}) == 20
    manifest = json.loads((Path(job.into) / "manifest.json").read_text())
    assert manifest["images_per_label"] == {"cat": 10, "dog": 10}
    assert [shard["images"] for shard in manifest["shards"]] == [8, 8, 4]
    assert "DiTPipeline" in (Path(job.into) / "README.md").read_text()

    assert "0 to make" in run(job)
    name = list(files)[1]
    (Path(job.into) / name).unlink()
    (Path(job.into) / f".{name}.0123.partial").write_bytes(files[name][:100])
    longer = job.model_copy(update={"images": 22})
    assert "2 to make" in run(longer)  # the lost one, and the last, which had 4 of 6 images
    assert {name: files_of(job.into)[name] for name in list(files)[:2]} == dict(list(files.items())[:2])
    assert len(files_of(job.into)) == 3
    assert rows_of(job.into)[:20] == rows
    with pytest.raises(DataError, match="1 shards beyond the 16 images of the job"):
        run(job.model_copy(update={"images": 16}))

    job = longer
    image, known = one_image(job, rows[11]["key"])
    assert image == rows[11]["image"]
    assert known["seed"] == rows[11]["seed"]

    index = build_index(SourceSpec(uri=job.into, origin="generated"), STORE)
    assert index.num_records == 22
    read = read_fragments(index, [(0, None)], STORE, threads=1)[0]
    assert read["label"].to_pylist()[:2] == ["cat", "dog"]
    assert set(read["origin"].to_pylist()) == {"generated"}

    other = job.model_copy(update={"into": f"{job.into}-2", "seed": 6, "images": 12})
    run(other)
    found = compare(job.into, other.into, STORE)
    assert (found.images, found.only_first, found.equal) == (12, 10, 0)
    assert found.settings == ["images", "into", "seed"]
    assert found.provenance == {"seed": 12}
    assert not compare(job.into, job.into, STORE).any


@pytest.mark.ray
def test_variations_of_real_records_keep_their_keys_and_labels(
    ray_cluster: Any, make_job: MakeJob, tmp_path: Path
) -> None:
    run_prepare([DigitsStep(dataset="digits", into=str(tmp_path / "digits"))], STORE, lambda text: None)
    source = {"uri": str(tmp_path / "digits/eval")}
    job = make_job(
        "text_to_image",
        images=6,
        variations_of=source,
        pipeline={"strength": [0.3, 0.8], "steps": 5, "image_size": 16},
    )
    run(job)
    rows = rows_of(job.into)
    index = build_index(SourceSpec(**source), STORE)
    real = read_fragments(index, [(0, None)], STORE, threads=1)[0].to_pylist()
    assert [(row["source_key"], row["label"]) for row in rows] == [
        (row["key"], row["label"]) for row in real[:6]
    ]
    assert len({row["strength"] for row in rows}) > 1


@pytest.mark.ray
def test_a_prefix_holds_one_data_set(ray_cluster: Any, make_job: MakeJob, pipelines: dict[str, Path]) -> None:
    job = make_job(images=2)
    run(job)
    with pytest.raises(SpecError, match="its settings differ"):
        run(make_job(images=2, seed=6))
    with pytest.raises(SpecError, match="its weights differ"):
        run(
            make_job("text_to_image").model_copy(
                update={
                    "pipeline": job.pipeline.model_copy(update={"source": str(pipelines["text_to_image"])})
                }
            )
        )
    with pytest.raises(DataError, match=r"holds no dataset\.json"):
        compare(job.into, f"{job.into}-none", STORE)


@pytest.mark.ray
def test_what_actors_meet_is_one_clear_error(ray_cluster: Any, make_job: MakeJob) -> None:
    with pytest.raises(SpecError, match="prompts: DDPMPipeline takes no prompt"):
        run(make_job(prompts={"classes": ["cat"]}))
    with pytest.raises(DataError, match="image 0: was refused 2 times: no contrast"):
        run(make_job(into=make_job().into + "-2", gate={"contrast_min": 0.9, "tries_max": 2}))
    with pytest.raises(ResourceError, match="64 actors of 4 CPUs"):
        run(make_job(into=make_job().into + "-3", actors={"min": 64, "max": 64, "cpus_each": 4}))


@pytest.mark.slow
@pytest.mark.ray
def test_what_repeats_another_shard_or_a_real_set_is_made_again(
    ray_cluster: Any, make_job: MakeJob, tmp_path: Path
) -> None:
    plain = make_job(images=24, images_per_shard=24, images_per_batch=4)
    maker = ImageMaker(plain, local_pipeline(plain.pipeline, STORE), "cpu")
    shard = shard_of(plain, Conditions(), "c", 0)
    made = make_shard(plain, "c", shard, maker, lambda slots: None, Gate(plain.gate), {})
    freely = pq.read_table(io.BytesIO(made.data)).to_pylist()
    hashes = {number: row["perceptual_hash"] for number, row in enumerate(freely)}
    # As many bits as make a few images of other shards repeats.
    bits_max = next(bits for bits in range(1, 33) if 1 <= len(repeated(hashes, bits)) <= 8)
    real = tmp_path / "real"
    real.mkdir()
    (real / "leak.png").write_bytes(freely[5]["image"])
    job = make_job(
        into=str(tmp_path / "unlike"),
        images=24,
        images_per_shard=4,
        images_per_batch=4,
        gate={"duplicate_bits_max": bits_max, "duplicates_of": [{"uri": str(real)}], "tries_max": 40},
    )
    said = run(job)
    assert "gate: 1 real images that none may repeat" in said
    rows = rows_of(job.into)
    found = {number: row["perceptual_hash"] for number, row in enumerate(rows)}
    assert repeated(found, bits_max) == []
    assert all(differing_bits(hashes[5], other) > bits_max for other in found.values())
    assert rows[5]["attempt"] > 0
    manifest = json.loads((Path(job.into) / "manifest.json").read_text())
    assert manifest["rejected"][f"duplicate of {real}"] >= 1
    assert (Path(job.into) / "_report/contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    files = files_of(job.into)
    assert "0 to make" in run(job)
    assert files_of(job.into) == files
    late = max(rows, key=lambda row: row["attempt"])
    image, known = one_image(job, late["key"])
    assert (image, known["attempt"]) == (late["image"], late["attempt"])


@pytest.mark.ray
def test_a_generator_with_too_little_variety_ends_with_an_error(ray_cluster: Any, make_job: MakeJob) -> None:
    """Hashes that may differ in half their bits: two images are duplicates whatever their seeds."""
    gate = {"duplicate_bits_max": 32, "tries_max": 2}
    job = make_job(images=6, images_per_shard=1, gate=gate)
    with pytest.raises(DataError, match=r"repeats others with each of [4-9] seeds.*too little variety"):
        run(job)


@pytest.mark.slow
@pytest.mark.ray
def test_killed_at_random_and_started_again_until_whole(make_job: MakeJob, tmp_path: Path) -> None:
    """SIGKILL to the driver 20 times; every shard that is there is whole, and in the end all are."""
    job = make_job(images=400, images_per_shard=4, images_per_batch=1, pipeline={"steps": 8})
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(resolved(job)))
    command = [sys.executable, "-m", "syn2co_ray.cli", "run", str(file)]
    random.seed(0)
    for _ in range(20):
        driver = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        before = len(files_of(job.into))
        wanted = before + random.randint(1, 4)
        while driver.poll() is None and len(files_of(job.into)) < wanted:
            time.sleep(0.1)  # looks at the folder, waits for nothing else
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        for data in files_of(job.into).values():
            assert pq.read_table(io.BytesIO(data)).num_rows == 4
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [int(row["key"].rpartition("-")[2]) for row in rows_of(job.into)] == list(range(400))


@pytest.mark.slow
@pytest.mark.ray
def test_two_jobs_on_one_prefix_make_one_data_set(make_job: MakeJob, tmp_path: Path) -> None:
    """Started at the same moment, each on a Ray of its own: what one writes is what the other would."""
    job = make_job(images=60, images_per_shard=6, images_per_batch=3, pipeline={"steps": 8})
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(resolved(job)))
    command = [sys.executable, "-m", "syn2co_ray.cli", "run", str(file)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    said = [driver.communicate(timeout=600)[0].decode() for driver in both]
    assert [driver.returncode for driver in both] == [0, 0], said
    together = files_of(job.into)
    assert len(together) == 10
    assert [int(row["key"].rpartition("-")[2]) for row in rows_of(job.into)] == list(range(60))
    assert not (Path(job.into) / "_unfinished").exists()
    alone = job.model_copy(update={"into": str(tmp_path / "alone")})
    run(alone)
    assert files_of(alone.into) == together
