"""A job that makes a data set of diffusion images: `kind: generate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import EXECUTION_ONLY, Pool, PoolOrCount, Section
from .source import ObjectStoreSpec, SourceSpec

Range = Annotated[tuple[float, float], Field(strict=False)]


class PipelineSpec(Section):
    """A diffusers pipeline and how it is run."""

    source: str = Field(min_length=1)
    """Folder of the pipeline (local, the same path on every node), its prefix in an object store, its name on
    the hub, or package:NAME for one that is shipped with this package (digits_ddpm)."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of a hub name: what is fetched must not change under a job."""
    scheduler: str | None = None
    """Class name of another scheduler of diffusers, such as DDIMScheduler; its own when left out."""
    steps: int = Field(default=50, ge=1)
    """Denoising steps."""
    guidance: float | Range | None = None
    """Classifier-free guidance scale, or a range it is drawn from for each image (in steps of a quarter)."""
    strength: float | Range | None = None
    """Variations: how much of the image is made anew, 0 to 1, or a range it is drawn from for each image (in
    steps of a twentieth)."""
    negative_prompt: str | None = None
    """What images should not show."""
    image_size: int | None = Field(default=None, ge=8)
    """Height and width of the images in pixels; the pipeline's own when left out."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights."""
    lora: str | None = None
    """LoRA weights to load over them: a folder or prefix with one .safetensors file."""
    vae_slicing: bool = False
    """Decode latents one by one: less memory."""
    compile: bool = False
    """torch.compile the denoising network: slow to start, faster per image on a GPU."""


class PromptsSpec(Section):
    """Text for each image: classes x templates, or captions."""

    classes: list[str] = Field(default=[])
    """Names of the classes; images go round them in order, and carry the name as their label."""
    definitions: dict[str, str] = Field(default={})
    """Class name -> what goes in place of {definition}."""
    backgrounds: list[str] = Field(default=[])
    """What goes in place of {background}, drawn for each image."""
    templates: list[str] = Field(default=["{name}"], min_length=1)
    """Sentences with {name}, {definition}, {background}; images of a class go round them in order."""
    captions: SourceSpec | None = None
    """Parquet files with one caption a row, instead of classes."""
    caption_column: str = "caption"
    """Column of the captions."""


class ClassesSpec(Section):
    """Classes of a class-conditional pipeline (DiT); images go round them in order."""

    numbers: list[int] = Field(min_length=1)
    """The pipeline's class numbers."""
    names: list[str] = Field(default=[])
    """Labels the images carry, one for each number; the numbers when left out."""


class EncoderSpec(Section):
    """A network whose features say how alike images are."""

    backbone: str = Field(min_length=1)
    """Any timm model name with a pooled feature."""
    weights: str = Field(min_length=1)
    """URI of its .safetensors file: timm's own, or method.safetensors of a run's checkpoint."""
    image_size: int = Field(default=224, ge=8)
    """Height and width in pixels of what it sees."""
    backbone_options: dict[str, int | float | bool | str] = Field(default={})
    """Further keyword arguments of the timm model."""


class EmbeddingGateSpec(Section):
    """Refuses images that are unlike any real one."""

    encoder: EncoderSpec
    real: SourceSpec
    """Real images to compare with."""
    similarity_min: float = Field(ge=-1, le=1)
    """Smallest cosine similarity of an image's feature to its nearest real one."""


class QualitySpec(Section):
    """A comparison of the finished data set with real images: FID, KID, precision and recall."""

    encoder: EncoderSpec
    real: SourceSpec
    """Real images to compare with."""
    images_max: int = Field(default=10_000, ge=10)
    """Images of each set that are compared, the first ones in key order of files."""


class GateSpec(Section):
    """What an image must pass; one that does not is made again with the slot's next seed."""

    contrast_min: float = Field(default=0.01, ge=0, lt=1)
    """Smallest standard deviation of the grey values (0 to 1): black, white and flat images stay below it."""
    duplicate_bits_max: int | None = Field(default=None, ge=0, le=32)
    """Images of the data set whose 64-bit perceptual hashes differ in at most this many bits are duplicates,
    and the later one is made again; left out: not looked at."""
    duplicates_of: list[SourceSpec] = Field(default=[])
    """Real sets that no image may duplicate either: evaluation images above all, lest they leak."""
    embedding: EmbeddingGateSpec | None = None
    """Refuse what is unlike any real image."""
    tries_max: int = Field(default=5, ge=1)
    """Seeds a slot may use up within its shard before the job says that it cannot be filled; as many times as
    many, when its images repeat those of other shards."""


class EncodingSpec(Section):
    """How images are stored."""

    format: Literal["png", "jpeg", "webp"] = "png"
    """png is exact; jpeg and webp are smaller."""
    quality: int = Field(default=95, ge=1, le=100)
    """Of jpeg and webp."""
    mark: bool = False
    """Write into each image that an algorithm made it (IPTC's digital source type, as XMP)."""


class GeneratorSpec(Section):
    """How images are made and which are let through; decides every pixel, with the seed."""

    pipeline: PipelineSpec
    prompts: PromptsSpec | None = None
    """Text-to-image."""
    classes: ClassesSpec | None = None
    """Class-conditional generation. Without it, prompts and variations_of: unconditional."""
    variations_of: SourceSpec | None = None
    """Image-to-image variations of real records, in their order; labels are kept, not needed."""
    gate: GateSpec = GateSpec()
    encoding: EncodingSpec = EncodingSpec()
    images_per_shard: int = Field(default=256, ge=1)
    """Images in one Parquet file, which appears whole or not at all. What is done of it is kept meanwhile."""
    images_per_batch: int = Field(default=8, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Images that go through the network together; halved by itself when memory runs out."""
    actors: PoolOrCount = Field(default=Pool(min=1, max=1), json_schema_extra=EXECUTION_ONLY)
    """Processes that hold a pipeline."""


class DataSetName(Section):
    """Which data set a job makes, and how much of it."""

    kind: Literal["generate"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Lower-case name of the data set."""
    seed: int = Field(ge=0)
    """Image i has its own seed, from this one and i."""
    into: str = Field(min_length=1, json_schema_extra=EXECUTION_ONLY)
    """Prefix that gets the data set: a local path or an object store."""
    images: int = Field(ge=1)
    """How many images."""


class GenerateSpec(GeneratorSpec, DataSetName):
    """Diffusion images at any scale: a Parquet data set that a `generated` source of a training job reads."""

    quality: QualitySpec | None = Field(default=None, json_schema_extra=EXECUTION_ONLY)
    """How good the data set is, measured when it is whole."""
    price_per_gpu_hour: float | None = Field(default=None, gt=0, json_schema_extra=EXECUTION_ONLY)
    """To show what the job costs."""
    object_store: ObjectStoreSpec = Field(default=ObjectStoreSpec(), json_schema_extra=EXECUTION_ONLY)
