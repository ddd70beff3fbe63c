"""The plan of a data set is a pure function of the job and the slot's number."""

from __future__ import annotations

from collections import Counter

import pytest

from syn2co_ray.generate.slots import (
    Conditions,
    content_id,
    image_seed,
    number_of_shards,
    shard_of,
    slot_of,
)

from .conftest import MakeJob

NONE = Conditions()


def test_seeds_differ_by_job_slot_and_attempt_and_repeat() -> None:
    seeds = [image_seed(job, slot, attempt) for job in range(3) for slot in range(50) for attempt in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert image_seed(1, 2, 3) == image_seed(1, 2, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_prompts_go_round_classes_and_then_templates(make_job: MakeJob) -> None:
    job = make_job(
        "text_to_image",
        prompts={
            "classes": ["cat", "dog"],
            "templates": ["{name}", "{name}, {definition}", "{name} in {background}"],
            "definitions": {"cat": "a feline", "dog": "a canine"},
            "backgrounds": ["snow", "a street"],
        },
    )
    slots = [slot_of(job, NONE, number) for number in range(60)]
    assert [slot.prompt for slot in slots[:4]] == ["cat", "dog", "cat, a feline", "dog, a canine"]
    assert {slot.prompt for slot in slots if slot.prompt and " in " in slot.prompt} == {
        f"{name} in {place}" for name in ("cat", "dog") for place in ("snow", "a street")
    }
    assert [slot.label for slot in slots[:3]] == ["cat", "dog", "cat"]


def test_classes_captions_and_real_records_go_round(make_job: MakeJob) -> None:
    job = make_job("class_conditional")
    slots = [slot_of(job, NONE, number) for number in range(3)]
    assert [(slot.class_number, slot.label) for slot in slots] == [(0, "cat"), (3, "dog"), (0, "cat")]
    captions = make_job("text_to_image", prompts={"captions": {"uri": "/x"}})
    assert slot_of(captions, Conditions(captions=["one", "two"]), 3).prompt == "two"
    varied = make_job("text_to_image", variations_of={"uri": "/x"})
    slot = slot_of(varied, Conditions(source_keys=["a", "b"], source_labels=["cat", None]), 4)
    assert (slot.source_key, slot.label) == ("a", "cat")


def test_drawn_guidance_covers_its_range_in_quarters(make_job: MakeJob) -> None:
    job = make_job("text_to_image", pipeline={"guidance": [2.0, 4.0]})
    counts = Counter(slot_of(job, NONE, number).guidance for number in range(2000))
    assert sorted(counts) == [2 + step / 4 for step in range(9)]
    assert counts[2.5] == pytest.approx(250, rel=0.3)
    assert slot_of(make_job("text_to_image", pipeline={"guidance": 3.3}), NONE, 0).guidance == 3.3


def test_shards_hold_all_slots_once_and_the_last_may_be_short(make_job: MakeJob) -> None:
    job = make_job(images=20, images_per_shard=8)
    shards = [shard_of(job, NONE, "c", number) for number in range(number_of_shards(job))]
    assert [[slot.number for slot in shard.slots] for shard in shards] == [
        list(range(8)),
        list(range(8, 16)),
        list(range(16, 20)),
    ]
    assert len({shard.shard_id for shard in shards}) == 3


def test_ids_follow_what_decides_the_images_and_nothing_else(make_job: MakeJob) -> None:
    plain = content_id(make_job(), "w", NONE)
    for other in (
        make_job(actors=3),
        make_job(into="/elsewhere"),
        make_job(images_per_batch=2),
        make_job(images=99),
        make_job(pipeline={"compile": True}),
        make_job(price_per_gpu_hour=2.0),
    ):
        assert content_id(other, "w", NONE) == plain
    for other in (
        make_job(seed=6),
        make_job(pipeline={"steps": 3}),
        make_job(gate={"contrast_min": 0.5}),
        make_job(encoding={"format": "jpeg"}),
        make_job(prompts={"classes": ["cow"]}),
        make_job(classes={"numbers": [1]}),
        make_job(images_per_shard=4),
    ):
        assert content_id(other, "w", NONE) != plain
    assert content_id(make_job(), "other weights", NONE) != plain
    assert content_id(make_job(), "w", Conditions(fingerprint="changed")) != plain
    ids = {shard_of(make_job(images=images), NONE, "c", 0).shard_id for images in (5, 6)}
    assert len(ids) == 2
