"""A job that writes the embeddings of images at any scale: `kind: embed`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import EXECUTION_ONLY, Pool, PoolOrCount, Section
from .data import PrepareStep
from .source import ObjectStoreSpec, SourceSpec
from .weights import WeightsSpec


class NearDuplicatesSpec(Section):
    """Pairs of images whose embeddings point the same way, found by comparing all with all."""

    similarity_min: Annotated[float, Field(gt=0, le=1)] = 0.98
    """Smallest cosine similarity of a pair."""
    pairs_max: int = Field(default=1_000_000, ge=1)
    """The search ends with that many pairs, and says so."""
    images_max: int = Field(default=1_000_000, ge=2)
    """Larger sets are not searched, and the report says so: the time grows with the square."""
    pairs_shown: int = Field(default=24, ge=0)
    """Pairs on the report's contact sheet, spread over their similarities."""


class NearestSpec(Section):
    """A look at what the embeddings take for alike: a few images and their nearest others."""

    k: int = Field(default=8, ge=1)
    """Nearest others of each."""
    images_shown: int = Field(default=8, ge=1)
    """Images asked about, spread evenly over all."""


class EmbedSpec(Section):
    """One embedding an image, as Parquet with its key, made by a pool of actors that grows and shrinks."""

    kind: Literal["embed"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Lower-case name; the folder is this name and a short hash of the spec."""
    storage: str = Field(min_length=1, json_schema_extra=EXECUTION_ONLY)
    """Where the folder goes: a local path or an object store."""
    weights: WeightsSpec
    """The network; `weights.image_size` is the size of what it sees."""
    sources: list[SourceSpec] = Field(min_length=1)
    """Images; labels are kept, not needed. What was added since is made by the same command."""
    prepare: list[PrepareStep] = Field(default=[], json_schema_extra=EXECUTION_ONLY)
    """Data sets to write before; a step whose output is whole is skipped."""
    dtype: Literal["float16", "float32"] = "float16"
    """Type of the stored numbers; the network itself computes in float32."""
    l2_normalised: bool = True
    """Divide each embedding by its length."""
    images_per_shard: int = Field(default=4096, ge=1)
    """Images in one Parquet file, about: whole fragments of a source are put together up to it."""
    images_per_batch: int = Field(default=256, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Images per forward pass."""
    actors: PoolOrCount = Field(default=Pool(min=1, max=1), json_schema_extra=EXECUTION_ONLY)
    """Processes that hold the network; each decodes with as many threads as it has CPUs."""
    near_duplicates: NearDuplicatesSpec | None = Field(
        default=NearDuplicatesSpec(), json_schema_extra=EXECUTION_ONLY
    )
    """null leaves the search out; other values search again over the embeddings that are there."""
    neighbours: NearestSpec | None = Field(default=NearestSpec(), json_schema_extra=EXECUTION_ONLY)
    """null leaves the sheet out."""
    image_pixels_max: int = Field(default=100_000_000, ge=1)
    """Images whose header claims more pixels are refused before decoding."""
    quarantine_share_max: float = Field(default=0.01, ge=0, le=1, json_schema_extra=EXECUTION_ONLY)
    """Largest part of the images that may be unreadable before the job stops."""
    object_store: ObjectStoreSpec = Field(default=ObjectStoreSpec(), json_schema_extra=EXECUTION_ONLY)
