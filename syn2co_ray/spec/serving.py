"""What `syn2co serve` serves, how it batches, and what it refuses."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from .base import Section
from .errors import Fault, SpecError
from .options import option_faults
from .source import ObjectStoreSpec
from .weights import WeightsSpec

NAMED_OTHERWISE = {"min": "--replicas-min", "max": "--replicas-max"}


class ReplicasSpec(Section):
    """Processes that hold the network: more of them while requests wait, fewer when they do not."""

    min: int = Field(default=1, ge=1)
    """Fewest of them."""
    max: int = Field(default=1, ge=1)
    """Most of them."""
    cpus_each: float = Field(default=1.0, gt=0)
    """CPUs reserved by each, and threads that decode images in it."""
    gpus_each: float | None = Field(default=None, ge=0)
    """GPUs reserved by each; left out: 1 where the cluster has one, else 0."""


class ServeSpec(Section):
    """A backbone behind an HTTP address."""

    weights: WeightsSpec
    """The network; it is loaded once, and replicas are sent its tensors."""
    neighbours: str | None = None
    """Folder of a finished job of kind embed, or prefix of Parquet files with columns `key` and `embedding`,
    made with the same weights."""
    replicas: ReplicasSpec = ReplicasSpec()
    images_per_batch_max: int = Field(default=32, ge=1)
    """Images of one forward pass; 1: every image by itself."""
    batch_wait_ms: float = Field(default=5.0, ge=0, le=10_000)
    """How long the first image of a batch waits for others while the network is idle."""
    queue_images_max: int = Field(default=256, ge=1)
    """Requests that a replica holds at once; further ones are answered with 429."""
    body_bytes_max: int = Field(default=20_000_000, ge=1)
    """Larger request bodies are answered with 413, before they are read to the end."""
    image_pixels_max: int = Field(default=40_000_000, ge=1)
    """Images whose header claims more pixels are refused before decoding; each takes 3 bytes."""
    neighbours_max: int = Field(default=100, ge=1)
    """Largest `k` of a request."""
    request_timeout_s: float = Field(default=60.0, gt=0)
    """A request that takes longer, its upload included, is answered with 408."""
    drain_s: float = Field(default=30.0, ge=0)
    """How long requests in flight may take to end after Ctrl-C."""
    host: str = "127.0.0.1"
    """Address it listens on."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port it listens on."""
    object_store: ObjectStoreSpec = ObjectStoreSpec()
    """How weights and embeddings are reached."""


def serve_spec(values: dict[str, Any]) -> ServeSpec:
    """The spec from plain values.

    Raises:
        SpecError: with all faults, named as the command's options are.
    """
    try:
        spec = ServeSpec.model_validate(values)
    except ValidationError as error:
        raise option_faults(error, NAMED_OTHERWISE, "serve") from None
    if spec.replicas.min > spec.replicas.max:
        got = f"{spec.replicas.min}, and --replicas-max is {spec.replicas.max}"
        raise SpecError([Fault("--replicas-min", got, "at most --replicas-max", "change one")], "serve")
    return spec
