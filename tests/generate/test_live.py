"""A live source on a Ray cluster: what training reads does not depend on who made it, or how often."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from syn2co_ray.data.stream import Stream, read_window
from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.job import PretrainSpec
from syn2co_ray.spec.load import load_text
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import Store, list_files, open_store
from syn2co_ray.submit.live import LiveSource
from syn2co_ray.submit.prepare import PreparedRun, prepare_run
from syn2co_ray.submit.shared import forget_images, shared_by_trials

from ..ray_hosts import wait_for

WINDOWS = 6
JOB = """
kind: pretrain
name: live
seed: 3
storage: {folder}/runs
data:
  prepare: [{{dataset: digits, into: {folder}/digits}}]
  train: [{{uri: {folder}/digits/train, share: 0.75}}]
  live:
    share: 0.25
    pool_images: 32
    uses: 2
    when_late: wait
    generator:
      pipeline: {{source: "package:digits_ddpm", scheduler: DDIMScheduler, steps: 2}}
      images_per_shard: 8
      actors: {{min: 1, max: 1, cpus_each: 0.25}}
  window_images: 96
augment: {{recipe: byol, image_size: 16, actors: 1}}
method: {{framework: moby, backbone: vit_tiny_patch16_224, patch_size: 4}}
train: {{images_per_step_global: 48, epochs: 2, optimizer: {{warmup_epochs: 0}}}}
"""


def job(folder: Path, *overrides: str) -> PretrainSpec:
    spec = load_text(JOB.format(folder=folder), overrides)
    assert isinstance(spec, PretrainSpec)
    return spec


@contextlib.contextmanager
def generating(
    spec: PretrainSpec, shared: Store | None = None
) -> Iterator[tuple[PreparedRun, LiveSource, Stream]]:
    prepared = prepare_run(spec, lambda text: None, shared)
    assert prepared.live is not None
    source = LiveSource(prepared.live, spec, 1, prepared.plan, lambda text: None)
    try:
        yield prepared, source, source.joined_to(prepared.stream)
    finally:
        source.stop()


def records(stream: Stream, number: int) -> list[tuple[str, bytes]]:
    _, table = read_window(stream, number)
    return list(zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True))


def generating_processes() -> list[psutil.Process]:
    return [
        p for p in psutil.process_iter(["cmdline"]) if "ray::ShardActor" in " ".join(p.info["cmdline"] or [])
    ]


@pytest.mark.ray
def test_a_window_holds_the_same_records_after_an_actor_died_and_in_a_resumed_run(
    ray_cluster: Any, tmp_path: Path
) -> None:
    with generating(job(tmp_path)) as (prepared, source, stream):
        pool = Path(prepared.live.job.into)
        first = [records(stream, 0)]
        assert len(list(pool.glob("shard-*"))) >= 4
        for process in generating_processes():
            process.kill()
        for number in range(1, WINDOWS):
            first.append(records(stream, number))
            source.trained(prepared.plan.window(number).first_step)
        assert {image for window in first for _, image in window} > set()
        seen = source.look()
    generated = [key for window in first for key, _ in window if not key.startswith("digit")]
    assert len(generated) == WINDOWS * 24
    assert seen["images_made"] <= 8 * (4 + 2 * (seen["passes"] + 1))
    assert seen["late_passes"] == 0

    for file in sorted(pool.glob("shard-*"))[::2]:
        file.unlink()
    with generating(job(tmp_path, "data.live.generator.actors={min: 2, max: 2, cpus_each: 0.25}")) as (
        _,
        _,
        stream,
    ):
        assert [records(stream, number) for number in range(WINDOWS)] == first

    # A run that resumes at a window's border reads it before its first step says where training is.
    with generating(job(tmp_path)) as (_, _, stream):
        assert [records(stream, number) for number in range(3, WINDOWS)] == first[3:]


@pytest.mark.slow
@pytest.mark.ray
def test_a_trial_with_the_same_generator_copies_what_another_has_made(
    ray_cluster: Any, tmp_path: Path
) -> None:
    seen, read = [], []
    for negatives in (("method.momentum=0.99",), ("method.momentum=0.9",), ("seed=4",)):
        spec = job(tmp_path, f"storage={tmp_path}/look-1234/trials", "train.epochs=1", *negatives)
        with generating(spec, shared_by_trials(spec)) as (prepared, source, stream):
            read.append([records(stream, number) for number in range(3)])
            seen.append(source.look())
            name = f"{prepared.run.store.path}/live"
        assert list(Path(name).glob("shard-*"))
    first, same, other_seed = seen
    assert read[0] == read[1] != read[2]
    assert first["images_shared"] == same["images_made"] == other_seed["images_shared"] == 0
    assert same["images_shared"] >= 32
    assert other_seed["images_made"] >= 32
    search = open_store(f"{tmp_path}/look-1234", ObjectStoreSpec())
    assert list_files(search.child("shared/live"))
    forget_images(search)
    assert not list_files(search.child("shared/live"), missing_ok=True)


@pytest.mark.slow
@pytest.mark.ray
def test_actors_above_the_fewest_come_for_work_beside_training_and_go_without(
    ray_cluster: Any, tmp_path: Path
) -> None:
    each = "{min: 1, max: 1, cpus_each: 0.25}"
    sizes = (f"train.workers={each}", f"augment.actors={each}", "data.reader_cpus_each=0.25")
    many = ("data.live.pool_images=64", "data.live.generator.actors={min: 1, max: 3, cpus_each: 0.25}")
    with generating(job(tmp_path, *sizes, *many)) as (_, source, _):
        wait_for(lambda: source.look()["actors"] == 3, 120)
        wait_for(lambda: source.look()["actors"] == 1, 120)
        assert source.look()["images_ready"] >= 64
    crowded = ("train.workers={min: 1, max: 1, cpus_each: 1.25}", *sizes[1:])
    with generating(job(tmp_path / "crowded", *crowded, *many)) as (_, source, _):
        wait_for(lambda: source.look()["images_ready"] >= 64, 120)
        assert source.look()["actors"] == 1


@pytest.mark.ray
def test_what_stops_the_generator_stops_training_with_its_own_words(ray_cluster: Any, tmp_path: Path) -> None:
    spec = job(tmp_path, "data.live.generator.gate={contrast_min: 0.99, tries_max: 1}")
    with generating(spec) as (_, _, stream), pytest.raises(Exception, match=r"was refused 1 times: "):
        records(stream, 0)


def test_all_faults_of_a_live_source_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        job(
            tmp_path,
            "data.live.pool_images=40",
            "data.live.floor_images=100",
            "data.live.share=0.5",
            "data.live.generator.actors={min: 3, max: 2}",
            "data.live.generator.pipeline.strength=0.5",
        )
    said = str(caught.value)
    assert "data.live.pool_images: 40 is not a multiple of uses x generator.images_per_shard = 16" in said
    assert "use 32 or 48" in said
    assert "data.live.floor_images: 100 is more than the pool's 40" in said
    assert "data.train: shares sum to 1.25" in said
    assert "data.live.generator.actors: min 3 is more than max 2" in said
    assert "data.live.generator.pipeline.strength: given without variations_of" in said
