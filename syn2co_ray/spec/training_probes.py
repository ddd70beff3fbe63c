"""Sections of an evaluation that train: the linear protocol with augmentation, and fine-tuning.

Each becomes one training run or several, below the evaluation's folder (see `probe` for what such a run is).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import EXECUTION_ONLY, Pool, PoolOrCount, Section

WARMUP_SHARE = 0.1
"""Part of fine-tuning that warms up, when nothing is said."""


class TrainingProbeSpec(Section):
    """What every probe that trains has."""

    crop_scale: Annotated[tuple[float, float], Field(strict=False)] = (0.08, 1.0)
    """Smallest and largest area of the random crop."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Chance of a horizontal flip."""
    precision: Literal["auto", "bf16", "float32"] | None = None
    """Autocast of the backbone; bf16 on a GPU, else float32, when left out."""
    window_images: int | None = Field(default=None, ge=1)
    """Images shuffled together, as `data.window_images` of a training; 2048 when left out."""
    workers: PoolOrCount = Field(default=Pool(min=1, max=1), json_schema_extra=EXECUTION_ONLY)
    """DDP processes; with {min, max} as many as fit, fewer when nodes go, more when nodes come."""
    actors: PoolOrCount | None = Field(default=None, json_schema_extra=EXECUTION_ONLY)
    """Actors that decode and make views; left out, each worker makes its own, on all its CPUs but one."""
    reader_cpus_each: float = Field(default=0.5, gt=0, json_schema_extra=EXECUTION_ONLY)
    """Logical CPUs reserved by each read task."""
    checkpoint_every_epochs: int = Field(default=1, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Publish a checkpoint at the end of every n-th epoch (and at the end, on SIGTERM and on Ctrl-C)."""


class LinearAugmentedSpec(TrainingProbeSpec):
    """The linear protocol with augmentation (MoBY, arXiv 2105.04553): SGD on features of random views.

    The backbone is frozen. All rates learn side by side on the same features. A tenth of the bank, by the
    hash of the key, chooses the rate; what is reported learned from the whole bank. See
    `methods/linear_grid.py`.
    """

    epochs: int = Field(default=100, ge=1)
    """Passes over `data.eval_bank`."""
    images_per_step: int = Field(default=512, ge=1)
    """Images in one optimizer step, over all workers."""
    learning_rates: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)
    ] = (0.5, 0.75, 1.0, 1.25)
    """The grid: peak rates for 512 images a step, scaled linearly with images_per_step."""
    warmup_epochs: float = Field(default=5.0, ge=0)
    """Epochs of linear warm-up; then a cosine."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of the classifier's weights."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes (MoBY's code: 0.1)."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the frozen backbone while the classifiers learn (MoBY's code: 0.2)."""
    gradient_clip_norm: float | None = Field(default=5.0, gt=0)
    """Largest L2 norm of each classifier's gradient; null never clips."""


class FineTuneSpec(TrainingProbeSpec):
    """The whole backbone learns on with a classifier that starts at 0 (warm-up, then a cosine to 0)."""

    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(strict=False, min_length=1)] = (
        0.01,
        0.1,
        1.0,
    )
    """Parts of the labels of `data.eval_bank` it learns from, the same share of every class; 1 is all. Images
    of a smaller part are copied into the evaluation's folder."""
    epochs: int = Field(default=50, ge=1)
    """Passes over the images it learns from."""
    images_per_step: int = Field(default=256, ge=1)
    """Images per optimizer step, over all workers."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Peak rate of the classifier, and of the backbone unless `layer_decay` is given; not scaled."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Factor on the rate for each layer further from the output (BEiT, arXiv 2106.08254); 1 when left out."""
    optimizer: Literal["adamw", "sgd"] | None = None
    """AdamW when left out; sgd with a momentum of 0.9."""
    warmup_epochs: float | None = Field(default=None, ge=0)
    """Epochs of linear warm-up; a tenth of `epochs` when left out."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Of weights; biases, norms, positions and tokens have none."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    """Stochastic depth of the backbone; none when left out."""
    gradient_clip_norm: float | None = Field(default=None, gt=0)
    """Largest global L2 norm of the gradient; never clipped when left out."""

    @property
    def epochs_of_warmup(self) -> float:
        return WARMUP_SHARE * self.epochs if self.warmup_epochs is None else self.warmup_epochs
