"""The plan of a data set: what each image is to be, as a pure function of the job and its number.

An image's place in the data set is its *slot*, from 0. Slot i at its a-th try has one seed, from (seed of the
job, i, a), and draws nothing that depends on another slot, on a batch or on an actor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from ..data.randomness import digest_words, named_generator
from ..spec.generate import GenerateSpec
from ..spec.identity import resolved

GUIDANCE_STEP, STRENGTH_STEP = 0.25, 0.05
"""Drawn values are rounded to these, so that images with equal ones can share a batch."""


@dataclass(frozen=True)
class Slot:
    """What one image is to be; everything but the seed of its noise."""

    number: int
    label: str | None = None
    prompt: str | None = None
    class_number: int | None = None
    source_key: str | None = None
    """The real record it is a variation of."""
    guidance: float | None = None
    strength: float | None = None
    first_attempt: int = 0
    """Tries before this one duplicated images of other shards."""


def image_seed(job_seed: int, slot: int, attempt: int) -> int:
    """Seed of the noise of a slot at a try, both from 0: 63 bits."""
    return int(digest_words(job_seed, "image", slot, attempt)[0] >> 1)


@dataclass(frozen=True)
class Conditions:
    """The lists that slots go round, read once before a job starts."""

    captions: Sequence[str] = ()
    source_keys: Sequence[str] = ()
    source_labels: Sequence[str | None] = ()
    fingerprint: str = ""
    """Digest of where they were read from: a source that changed makes another data set."""
    first_attempts: Mapping[int, int] = field(default_factory=dict)
    """Slot -> first attempt, where earlier ones turned out to duplicate images of other shards."""


def slot_of(job: GenerateSpec, conditions: Conditions, number: int) -> Slot:
    """The slot with this number."""
    slot = _planned_slot(job, conditions, number)
    return replace(slot, first_attempt=conditions.first_attempts.get(number, 0))


def _planned_slot(job: GenerateSpec, conditions: Conditions, number: int) -> Slot:
    draws = named_generator(job.seed, "slot", number)
    guidance = _drawn(job.pipeline.guidance, draws.random(), GUIDANCE_STEP)
    strength = _drawn(job.pipeline.strength, draws.random(), STRENGTH_STEP)
    place = draws.random()
    if job.variations_of is not None:
        at = number % len(conditions.source_keys)
        label, key = conditions.source_labels[at], conditions.source_keys[at]
        prompt = "" if job.prompts is None else _prompt(job, number, place)[0]
        return Slot(number, label, prompt, None, key, guidance, strength)
    if job.classes is not None:
        at = number % len(job.classes.numbers)
        names = job.classes.names or [str(value) for value in job.classes.numbers]
        return Slot(number, names[at], None, job.classes.numbers[at], None, guidance, strength)
    if job.prompts is not None and job.prompts.captions is not None:
        prompt = conditions.captions[number % len(conditions.captions)]
        return Slot(number, None, prompt, guidance=guidance, strength=strength)
    if job.prompts is not None:
        prompt, label = _prompt(job, number, place)
        return Slot(number, label, prompt, guidance=guidance, strength=strength)
    return Slot(number, guidance=guidance, strength=strength)


def _prompt(job: GenerateSpec, number: int, place: float) -> tuple[str, str]:
    prompts = job.prompts
    assert prompts is not None
    name = prompts.classes[number % len(prompts.classes)]
    template = prompts.templates[number // len(prompts.classes) % len(prompts.templates)]
    background = prompts.backgrounds[int(place * len(prompts.backgrounds))] if prompts.backgrounds else ""
    definition = prompts.definitions.get(name, "")
    return template.format(name=name, definition=definition, background=background), name


def _drawn(value: float | tuple[float, float] | None, draw: float, step: float) -> float | None:
    if not isinstance(value, tuple):
        return value
    low, high = value
    return min(max(round((low + draw * (high - low)) / step) * step, low), high)


@dataclass(frozen=True)
class Shard:
    """A run of slots that become one file."""

    number: int
    slots: tuple[Slot, ...]
    shard_id: str
    """Hash of all that decides its content: pipeline and weights, settings, seeds and what each slot is."""

    @property
    def file(self) -> str:
        return f"shard-{self.number:06d}-{self.shard_id}.parquet"


DECISIVE = (
    "seed",
    "pipeline",
    "prompts",
    "classes",
    "variations_of",
    "gate",
    "encoding",
    "images_per_shard",
)
"""Sections that decide what an image is and which file holds it. How many there are does not: a data set may
be made longer."""


def content_id(job: GenerateSpec, weights_digest: str, conditions: Conditions) -> str:
    """Hash (12 hex digits) of what decides the images of a job."""
    values = resolved(job)
    decisive = {name: values[name] for name in DECISIVE}
    # The digest says what source and LoRA hold, wherever they lie.
    decisive["pipeline"] = {**decisive["pipeline"], "source": weights_digest, "lora": None, "compile": None}
    return _hash([decisive, conditions.fingerprint])


def number_of_shards(job: GenerateSpec) -> int:
    return -(-job.images // job.images_per_shard)


def shard_of(job: GenerateSpec, conditions: Conditions, content: str, number: int) -> Shard:
    """The shard with this number."""
    first = number * job.images_per_shard
    last = min(first + job.images_per_shard, job.images)
    slots = tuple(slot_of(job, conditions, slot) for slot in range(first, last))
    return Shard(number, slots, _hash([content, [asdict(slot) for slot in slots]]))


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
