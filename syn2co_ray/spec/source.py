"""A source of images, its share, and how its store is reached."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from .base import Section

SourceFormat = Literal["parquet", "webdataset", "folder"]


class ShareSchedule(Section):
    """A share that moves in a straight line from epoch to epoch, and stays before and after."""

    start: float = Field(ge=0, le=1)
    """Share up to the first of `epochs`."""
    end: float = Field(ge=0, le=1)
    """Share from the second of `epochs` on."""
    epochs: tuple[int, int] = Field(strict=False)
    """Epochs, from 0, between which it moves."""


def share_in(share: float | ShareSchedule, epoch: int) -> Fraction:
    """A source's share in an epoch, exact: a rounded one would drift over a long epoch."""
    if not isinstance(share, ShareSchedule):
        return Fraction(str(share))
    first, last = share.epochs
    start, end = Fraction(str(share.start)), Fraction(str(share.end))
    passed = Fraction(min(max(epoch, first), last) - first, max(last - first, 1))
    return start + (end - start) * passed if last > first else (end if epoch >= last else start)


class SourceSpec(Section):
    """One set of images: a prefix of Parquet files, WebDataset tars, or a folder of image files."""

    uri: str = Field(min_length=1)
    """Where the files are: a local path, s3://bucket/prefix/, gs://bucket/prefix/, az://container/prefix/ or
    hf://datasets/owner/name@commit/prefix/. A last part with * or ? takes only the files of that folder whose
    names match (`.../train-*.parquet`)."""
    format: SourceFormat | None = None
    """parquet, webdataset or folder; found from the file names when left out."""
    origin: Literal["real", "generated"] = "real"
    """Whether the images were photographed or made by a diffusion model."""
    share: Annotated[float, Field(gt=0, le=1)] | ShareSchedule | None = None
    """Part of every global step taken from this source, or {start, end, epochs} for one that changes; all
    sources give one, or none does (then each source's share is its part of all records)."""
    image_column: str | None = None
    """Parquet column with the encoded image (bytes, or a struct with a `bytes` field); found when
    exactly one column qualifies or one is called image, img, jpg or png."""
    label_column: str | None = None
    """Parquet column with the label; `label` or `cls` when present and nothing is said."""
    key_column: str | None = None
    """Parquet column with a stable id; `key` when present, else file name and row number."""


class CacheSpec(Section):
    """Images from a remote store that each node keeps on its own disk for later epochs."""

    folder: str = Field(pattern=r"^[/~]")
    """A folder of the node's own disk, made where it is missing; runs may share it."""
    bytes_max: int = Field(gt=0)
    """Size up to which it grows, in bytes; what was used longest ago goes first."""


class ObjectStoreSpec(Section):
    """How to reach stores (credentials come from the environment only, never from a job file)."""

    endpoint_url: str | None = None
    """Address of an S3-compatible store; AWS_ENDPOINT_URL when left out, else Amazon's."""
    region: str | None = None
    """Region of the bucket; AWS_DEFAULT_REGION when left out."""
    anonymous: bool = False
    """Read public buckets without credentials."""
    cache: CacheSpec | None = None
    """Keep what is read from remote sources on each node's disk; nothing is kept when left out."""
