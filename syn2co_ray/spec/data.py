"""Section `data`: which images are trained on, in which proportion, and which are evaluated on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import EXECUTION_ONLY, Section
from .live import LiveSpec
from .source import ShareSchedule, SourceSpec


class DigitsStep(Section):
    """Write scikit-learn's 1,797 real handwritten digits as Parquet shards, once."""

    dataset: Literal["digits"]
    into: str = Field(min_length=1)
    """Prefix that gets train/ and eval/ (a local path or an object store)."""
    eval_share: float = Field(default=0.2, gt=0, lt=1)
    """Part of the records that goes to eval/, chosen by a hash of the key."""


class SubsetStep(Section):
    """Copy the first n images of each class, in key order, to another place, once."""

    dataset: Literal["subset"]
    source: SourceSpec
    """A labelled source to copy from."""
    into: str = Field(min_length=1)
    """Prefix that gets the Parquet shards (a local path or an object store)."""
    images_per_class: int = Field(ge=1)
    """How many images of each class, the smallest keys first."""


PrepareStep = Annotated[DigitsStep | SubsetStep, Field(discriminator="dataset")]


class DataSpec(Section):
    """What is trained on and what is evaluated on."""

    train: list[SourceSpec]
    """Sources mixed into every global step at their shares."""
    live: LiveSpec | None = None
    """Images made while training goes on, mixed in as one more source."""
    eval: SourceSpec | None = None
    """Labelled images that k-NN and the linear probe classify."""
    eval_bank: SourceSpec | None = None
    """Labelled images that k-NN and the probe learn from; the real train sources when left out."""
    prepare: list[PrepareStep] = Field(default=[], json_schema_extra=EXECUTION_ONLY)
    """Data sets to write before the run starts; a step whose output is whole is skipped."""
    images_per_epoch: int | None = Field(default=None, ge=1)
    """Length of an epoch; all records of all stored sources together when left out."""
    window_images: int = Field(default=2048, ge=1)
    """Images shuffled together. A window is the unit of reading: one read task holds its encoded
    bytes in memory. Larger shuffles better, smaller uses less memory and starts sooner."""
    image_pixels_max: int = Field(default=100_000_000, ge=1)
    """Images whose header claims more pixels are refused before decoding."""
    quarantine_share_max: float = Field(default=0.01, ge=0, le=1, json_schema_extra=EXECUTION_ONLY)
    """Largest part of the images that may be unreadable before the run stops."""
    reader_cpus_each: float = Field(default=0.5, gt=0, json_schema_extra=EXECUTION_ONLY)
    """Logical CPUs reserved by each read task."""

    @property
    def shares(self) -> tuple[float | ShareSchedule | None, ...]:
        """Of all sources, the live one last."""
        stored = tuple(source.share for source in self.train)
        return stored if self.live is None else (*stored, self.live.share)
