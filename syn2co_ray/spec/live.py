"""Section `data.live`: images made while training goes on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section
from .generate import GeneratorSpec
from .source import ShareSchedule


class LiveSpec(Section):
    """A generator beside the training, and the bounded pool of its images in the store.

    Training goes through the whole pool again and again; after each pass the oldest images leave it and new
    ones come in. Each image has its number and seed, so a resumed run makes exactly those it needs again.
    """

    share: Annotated[float, Field(gt=0, le=1)] | ShareSchedule
    """Part of every global step taken from the pool; with the shares of `data.train` the sum is 1."""
    generator: GeneratorSpec
    """What makes the images."""
    pool_images: int = Field(ge=1)
    """Images in the pool: a multiple of uses x generator.images_per_shard."""
    uses: int = Field(default=4, ge=1)
    """Passes an image stays for. pool_images / uses of them are new in each pass."""
    floor_images: int | None = Field(default=None, ge=1)
    """Training waits until the pool holds so many; as many as one pass brings when left out. Until the pool
    is full, its images are used more often."""
    when_late: Literal["reuse", "wait"] = "reuse"
    """Whether a pass whose new images are not ready goes through the old ones again (recorded in the store,
    and followed when the run resumes), or waits (then the records of every step depend on the seed alone)."""

    @property
    def pool_shards(self) -> int:
        """Files of the pool."""
        return self.pool_images // self.generator.images_per_shard

    @property
    def shards_per_pass(self) -> int:
        """Files that leave and enter with each pass."""
        return self.pool_shards // self.uses

    @property
    def floor_shards(self) -> int:
        """Files below which training waits."""
        if self.when_late == "wait":
            return self.pool_shards
        if self.floor_images is None:
            return self.shards_per_pass
        return -(-self.floor_images // self.generator.images_per_shard)
