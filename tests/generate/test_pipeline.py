"""Each family with tiny real weights: shape, exactness over batches, order and repetition, and refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from syn2co_ray.data.place import PROBE_MARK
from syn2co_ray.generate.pipeline import ImageMaker
from syn2co_ray.generate.slots import Conditions, Slot, image_seed, slot_of
from syn2co_ray.generate.weights import digest_of, local_pipeline
from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.generate import GenerateSpec, PipelineSpec
from syn2co_ray.spec.source import ObjectStoreSpec

from ..hub_server import serving
from .conftest import MakeJob

FAMILIES = {"unconditional": 16, "latent": 32, "class_conditional": 32, "text_to_image": 32}
every_family = pytest.mark.parametrize("family", FAMILIES)


def maker_of(job: GenerateSpec) -> ImageMaker:
    return ImageMaker(job, Path(job.pipeline.source), "cpu")


def made(job: GenerateSpec, maker: ImageMaker, numbers: list[int], batch: int) -> np.ndarray:
    slots = [slot_of(job, Conditions(), number) for number in numbers]
    seeds = [image_seed(job.seed, number, 0) for number in numbers]
    parts = [maker(slots[at : at + batch], seeds[at : at + batch]) for at in range(0, len(numbers), batch)]
    return np.concatenate(parts)


@every_family
def test_an_image_does_not_depend_on_batch_order_or_repetition(family: str, make_job: MakeJob) -> None:
    job = make_job(family)
    maker = maker_of(job)
    whole = made(job, maker, list(range(8)), 8)
    size = FAMILIES[family]
    assert (whole.shape, whole.dtype) == ((8, size, size, 3), np.float32)
    assert len(np.unique(whole.reshape(8, -1), axis=0)) == 8
    np.testing.assert_array_equal(made(job, maker, list(range(8)), 8), whole)
    for batch in (1, 3):
        other = made(job, maker, list(range(8)), batch)
        # Matrix products of other shapes round otherwise: one level in less than one value of a thousand.
        levels = np.abs(np.rint(other * 255) - np.rint(whole * 255))
        if family == "latent":  # between two codes of its codebook a latent may take either, with its patch
            assert (levels > 0).mean() < 0.05
            continue
        assert levels.max() <= 1
        assert (levels > 0).mean() < 1e-3
    backwards = made(job, maker, list(range(8))[::-1], 1)[::-1]
    np.testing.assert_array_equal(backwards, made(job, maker, list(range(8)), 1))
    np.testing.assert_array_equal(made(job, maker_of(job), [5], 1), made(job, maker, [5], 1))


def test_variations_start_from_their_originals_and_keep_them_at_little_strength(make_job: MakeJob) -> None:
    job = make_job("text_to_image", variations_of={"uri": "/x"}, pipeline={"steps": 10})
    maker = maker_of(job)
    random = np.random.default_rng(0)
    originals = [random.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(2)]
    images = {}
    for strength in (0.1, 0.9):
        slots = [Slot(number, prompt="", strength=strength) for number in range(2)]
        images[strength] = maker(slots, [1, 2], originals)
        assert images[strength].shape == (2, 40, 50, 3)
    same_seed = maker([Slot(0, prompt="", strength=0.1)] * 2, [1, 1], originals)
    assert not np.array_equal(same_seed[0], same_seed[1])
    assert not np.array_equal(images[0.1], images[0.9])


def test_settings_take_effect(make_job: MakeJob) -> None:
    plain = made(make_job(), maker_of(make_job()), [0], 1)
    for settings in ({"scheduler": "DDIMScheduler"}, {"steps": 3}):
        job = make_job(pipeline=settings)
        assert not np.array_equal(made(job, maker_of(job), [0], 1), plain)
    job = make_job("text_to_image", pipeline={"image_size": 48, "vae_slicing": True, "negative_prompt": "x"})
    assert made(job, maker_of(job), [0, 1], 2).shape == (2, 48, 48, 3)


@pytest.mark.parametrize(
    ("family", "changes", "where", "got"),
    [
        ("unconditional", {"prompts": {"classes": ["cat"]}}, "prompts", "DDPMPipeline takes no prompt"),
        ("unconditional", {"pipeline": {"guidance": 2.0}}, "pipeline.guidance", "DDPMPipeline has none"),
        ("unconditional", {"pipeline": {"image_size": 32}}, "pipeline.image_size", "32"),
        ("unconditional", {"pipeline": {"scheduler": "DDIM"}}, "pipeline.scheduler", "diffusers has no DDIM"),
        ("class_conditional", {"classes": None}, "classes", "missing, but DiTPipeline needs them"),
        ("text_to_image", {"prompts": None}, "prompts", "missing, but StableDiffusionPipeline needs them"),
        ("text_to_image", {"pipeline": {"image_size": 33}}, "pipeline.image_size", "33"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused(
    family: str, changes: dict[str, object], where: str, got: str, make_job: MakeJob
) -> None:
    with pytest.raises(SpecError) as caught:
        maker_of(make_job(family, **changes))
    assert caught.value.fault.where == where
    assert caught.value.fault.got == got


def broken(folder: Path, target: Path, what: str) -> Path:
    shutil.copytree(folder, target)
    index = json.loads((target / "model_index.json").read_text())
    if what == "class":
        index["_class_name"] = "MyOwnPipeline"
    elif what == "component":
        shutil.rmtree(target / "unet")
    (target / "model_index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize(
    ("what", "got"), [("class", "holds a MyOwnPipeline, which diffusers"), ("component", "cannot be loaded")]
)
def test_a_pipeline_that_is_not_whole_or_not_known_is_refused(
    what: str, got: str, make_job: MakeJob, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    folder = broken(pipelines["unconditional"], tmp_path / "broken", what)
    with pytest.raises(SpecError, match=got):
        maker_of(make_job(pipeline={"source": str(folder)}))


def test_sources_that_lead_nowhere_are_refused(make_job: MakeJob, tmp_path: Path) -> None:
    options = ObjectStoreSpec()
    for source, got in (
        (str(tmp_path / "none"), "no such folder"),
        (str(tmp_path), "holds no model_index.json"),
        ("someone/something", "missing for hub name someone/something"),
    ):
        with pytest.raises(SpecError, match=got):
            local_pipeline(make_job(pipeline={"source": source}).pipeline, options)


def test_a_hub_name_is_fetched_at_its_commit_and_a_second_time_from_the_cache(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    code = (
        "import sys; from syn2co_ray.generate.weights import digest_of, local_pipeline\n"
        "from syn2co_ray.spec.generate import PipelineSpec\n"
        "from syn2co_ray.spec.source import ObjectStoreSpec\n"
        "found = local_pipeline(PipelineSpec(source='someone/tiny', revision=sys.argv[1]), ObjectStoreSpec())\n"
        "print(digest_of(found))"
    )

    def fetched(endpoint: str, revision: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", code, revision]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    with serving("someone/tiny", commit, pipelines["unconditional"]) as endpoint:
        first = fetched(endpoint, commit)
        assert first.stdout.strip() == digest_of(pipelines["unconditional"]), first.stderr
        other = fetched(endpoint, "f" * 40)
    assert "pipeline.source: someone/tiny at ffffffffffff" in other.stderr
    assert fetched(endpoint, commit).stdout == first.stdout


@pytest.mark.slow
def test_compiling_changes_no_image_beyond_rounding(make_job: MakeJob) -> None:
    plain, compiled = make_job(), make_job(pipeline={"compile": True})
    expected = made(plain, maker_of(plain), [0, 1, 2], batch=3)
    np.testing.assert_allclose(made(compiled, maker_of(compiled), [0, 1, 2], batch=3), expected, atol=2e-3)


def test_digest_follows_every_byte_and_name(pipelines: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pipelines["unconditional"], copy)
    whole = digest_of(copy)
    (copy / f"{PROBE_MARK}0123456789abcdef").write_bytes(b"1")
    assert digest_of(copy) == whole == digest_of(pipelines["unconditional"])
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text() + " ")
    assert digest_of(copy) != whole


def test_a_prefix_is_fetched_once_and_again_when_it_has_changed(
    pipelines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only the weights are others: files of the same names and sizes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "cache"))
    there = tmp_path / "there"
    shutil.copytree(pipelines["unconditional"], there)
    source = PipelineSpec(source=f"file://{there}")
    (weights,) = there.glob("unet/*.safetensors")
    first = local_pipeline(source, ObjectStoreSpec())
    (kept,) = first.glob("unet/*.safetensors")
    inode = kept.stat().st_ino
    assert local_pipeline(source, ObjectStoreSpec()) == first
    assert kept.stat().st_ino == inode
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\0\1")
    later = local_pipeline(source, ObjectStoreSpec())
    assert digest_of(later) == digest_of(there) != digest_of(first)


def test_processes_that_fetch_a_prefix_together_all_get_it_whole(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/model_index.json").write_text("{}")
    (tmp_path / "there/weights.safetensors").write_bytes(bytes(range(256)) * 80_000)
    code = (
        "import sys; from syn2co_ray.generate.weights import digest_of, local_pipeline\n"
        "from syn2co_ray.spec.generate import PipelineSpec\n"
        "from syn2co_ray.spec.source import ObjectStoreSpec\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(digest_of(local_pipeline(PipelineSpec(source=sys.argv[1]), ObjectStoreSpec())))"
    )
    command = [sys.executable, "-c", code, f"file://{tmp_path / 'there'}"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    digests = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert digests == [digest_of(tmp_path / "there")] * 4
