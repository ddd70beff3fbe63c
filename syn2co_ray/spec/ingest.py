"""What `syn2co ingest` copies, how small its images become, and how they are packed."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from .base import EXECUTION_ONLY, Section
from .options import option_faults
from .source import ObjectStoreSpec, SourceSpec

NAMED_OTHERWISE = {"uri": "SOURCE", "into": "INTO", "format": "--format-of-source"}


class IngestSpec(Section):
    """A source as Parquet shards of images of a chosen size."""

    source: SourceSpec
    """Where the images are."""
    into: str = Field(min_length=1, json_schema_extra=EXECUTION_ONLY)
    """Prefix that gets the shards: a local path or an object store."""
    shorter_side: int | None = Field(default=None, ge=8)
    """Pixels of the shorter side of images that are larger; left out: every image keeps its bytes."""
    quality: int = Field(default=90, ge=1, le=100)
    """JPEG quality of the images made smaller (colours at half resolution, 4:2:0)."""
    rows_per_shard: int = Field(default=4096, ge=1)
    """Images in a file, and images shuffled together; a task holds about three times their bytes."""
    rows_per_group: int = Field(default=256, ge=1)
    """Images in a row group, which training reads in one request."""
    image_pixels_max: int = Field(default=100_000_000, ge=1)
    """Images whose header claims more pixels are refused before decoding."""
    quarantine_share_max: float = Field(default=0.01, ge=0, le=1, json_schema_extra=EXECUTION_ONLY)
    """Largest part of the source's images that may be unreadable."""
    object_store: ObjectStoreSpec = Field(default=ObjectStoreSpec(), json_schema_extra=EXECUTION_ONLY)
    """How to reach both places; `anonymous` concerns the source alone."""

    @property
    def into_store(self) -> ObjectStoreSpec:
        """How to reach `into`: writing needs credentials also where reading does not."""
        return self.object_store.model_copy(update={"anonymous": False})


def ingest_spec(values: dict[str, Any]) -> IngestSpec:
    """The spec from plain values.

    Raises:
        SpecError: with all faults, named as the command's options are.
    """
    try:
        return IngestSpec.model_validate(values)
    except ValidationError as error:
        raise option_faults(error, NAMED_OTHERWISE, "ingest") from None
