"""Section `detection` of an evaluation: the backbone learns to find objects, and how well it does."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import EXECUTION_ONLY, Pool, PoolOrCount, Section

AnnotationFormat = Literal["coco", "voc"]
Neck = Literal["simple_pyramid", "fpn", "c4"]


class AnnotatedImagesSpec(Section):
    """Images with boxes, and masks where there are any, in one of the two common formats."""

    annotations: str = Field(min_length=1)
    """COCO: URI of the JSON file. VOC: URI of the folder of XML files."""
    images: str = Field(min_length=1)
    """URI of the folder of image files; COCO's `file_name` is below it."""
    format: AnnotationFormat | None = None
    """coco or voc; coco for a name that ends in .json, else voc, when left out."""
    image_set: str | None = None
    """VOC: URI of a text file that names the XML files, one a line, by path without suffix or by a name that
    only one has; all of them when left out."""
    mask_folder: str | None = None
    """VOC: URI of the folder of instance masks (SegmentationObject): PNGs called as the XML files, whose
    pixels say the number of the object in the file, from 1; 0 is background and 255 is ignored."""
    one_based: bool = True
    """VOC: the first pixel of a row is 1 and the last one of a box belongs to it, as in the devkit. false for
    files of tools that write edges counted from 0."""

    @property
    def resolved_format(self) -> AnnotationFormat:
        """The format said, or told by the name."""
        return self.format or ("coco" if self.annotations.endswith(".json") else "voc")


class DetectionSpec(Section):
    """Faster R-CNN, or Mask R-CNN with `masks`, on the backbone; AP on images it has not seen.

    AdamW, linear warm-up over a tenth of the steps, cosine to 0.
    """

    train: AnnotatedImagesSpec
    """What it learns from."""
    eval: AnnotatedImagesSpec
    """What is searched for objects; its categories are matched by name."""
    masks: bool = False
    """Mask R-CNN: instance masks as well as boxes."""
    neck: Neck | None = None
    """From backbone to pyramid: simple_pyramid (ViTDet, from the last layer alone), fpn (stages of Swin,
    ConvNeXt, ResNet), c4 (ResNet: no pyramid, the last stage is the head). When left out, fpn for backbones
    that have stages and simple_pyramid for the others."""
    channels: int = Field(default=256, ge=32, multiple_of=32)
    """Width of the pyramid; the box head is 4 times as wide."""
    image_size: int = Field(default=1024, ge=64, multiple_of=32)
    """Images are scaled to this longer side in pixels, and padded to a square of it."""
    anchor_size_smallest: int = Field(default=32, ge=4)
    """Side in pixels of the scaled image of the smallest of five anchors; each is twice the one before."""
    proposals_per_image: int = Field(default=1000, ge=8)
    """Regions that may hold an object, after suppression of overlapping ones; twice as many before it on each
    level."""
    regions_per_image: int = Field(default=512, ge=8)
    """Of these, how many the heads learn from, at most a quarter of them objects."""
    epochs: int = Field(default=12, ge=1)
    """Passes over the training images."""
    images_per_step: int = Field(default=16, ge=1)
    """Images per optimizer step."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak rate of heads, neck and the backbone's last layer."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer of the backbone below the last learns at this part of the rate of the one above it; ViTDet
    uses 0.7 for ViT-B after masked pre-training. It slows a random backbone as well: 1 compares fairly."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Of weights; biases and norms have none."""
    gradient_clip_norm: float = Field(default=1.0, gt=0)
    """Largest global L2 norm of a step's gradient."""
    scale: Annotated[tuple[float, float], Field(strict=False)] = (0.8, 1.0)
    """Smallest and largest random factor on `image_size` in training; what is larger is cropped. ViTDet's
    long schedules use [0.1, 2.0]."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Chance of a horizontal flip in training."""
    left_out_share_max: float = Field(default=0.05, ge=0, lt=1, json_schema_extra=EXECUTION_ONLY)
    """Largest part of a set's images, or of its boxes, that may be unusable and left out."""
    image_pixels_max: int = Field(default=100_000_000, ge=1)
    """Images whose header claims more pixels are refused before decoding."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Autocast of backbone and neck; auto is bf16 on a GPU, else float32. Heads work in float32."""
    workers: PoolOrCount = Field(default=Pool(min=1, max=1), json_schema_extra=EXECUTION_ONLY)
    """Processes that share each step and the search for objects, at most one an image of a step; with
    {min, max} as many as fit, fewer when nodes go, more when nodes come."""
    failures_max: int = Field(default=3, ge=0, json_schema_extra=EXECUTION_ONLY)
    """Failures of workers or nodes, without a new checkpoint between them, before it ends."""
    collective_timeout_s: float = Field(default=600.0, gt=0, json_schema_extra=EXECUTION_ONLY)
    """Longest wait for another worker before all start again without it."""
    checkpoint_every_steps: int = Field(default=500, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Steps after which a stopped training can go on."""
    images_per_batch: int = Field(default=8, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Images per forward pass of the evaluation."""
    reader_threads: int = Field(default=4, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Images read and decoded at the same time."""
