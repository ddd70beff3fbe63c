"""An embed job's spec: defaults, what names its folder, faults."""

from __future__ import annotations

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.identity import spec_hash
from syn2co_ray.spec.load import load_text

EMBED = """\
kind: embed
name: tiny
storage: runs
weights: {run: runs/tiny-1234abcd}
sources:
  - {uri: images/train}
  - {uri: images/val}
"""


def faults(*overrides: str) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        load_text(EMBED, overrides)
    return {fault.where: fault.render("job.yaml") for fault in caught.value.faults}


def test_what_decides_an_embedding_names_the_folder_and_what_does_not_does_not() -> None:
    job = load_text(EMBED)
    assert (job.dtype, job.l2_normalised, job.actors.min, job.near_duplicates.similarity_min) == (
        "float16",
        True,
        1,
        0.98,
    )
    same = ["actors={min: 2, max: 8}", "images_per_batch=8", "near_duplicates=null", "neighbours={k: 3}"]
    assert spec_hash(load_text(EMBED, same)) == spec_hash(job)
    for other in ("dtype=float32", "l2_normalised=false", "weights.image_size=64", "images_per_shard=512"):
        assert spec_hash(load_text(EMBED, [other])) != spec_hash(job)


def test_faults_come_at_once_with_their_lines() -> None:
    found = faults(
        "sources.1.uri=images/train/",
        "weights.step=0",
        "actors={min: 3, max: 2}",
        "near_duplicates.similarity_min=0",
        "dtype=int8",
    )
    assert set(found) == {
        "sources.1.uri",
        "weights.step",
        "actors",
        "near_duplicates.similarity_min",
        "dtype",
    }
    assert (
        "job.yaml:7: sources.1.uri: images/train, as sources.0; allowed: each once" in found["sources.1.uri"]
    )
    assert "float16" in found["dtype"]
    assert "sources" in faults("sources=[]")


def test_a_pipelines_shared_keys_hold_for_an_embedding_step() -> None:
    step = EMBED.replace("storage: runs\n", "").replace("\n", "\n    ").strip()
    text = f"kind: pipeline\nname: both\nstorage: elsewhere\nsteps:\n  - {step}\n"
    (embedding,) = load_text(text).steps
    assert (embedding.kind, embedding.storage) == ("embed", "elsewhere")
