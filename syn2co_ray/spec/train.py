"""Section `train`: batch, length, optimizer, workers, checkpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import EXECUTION_ONLY, Pool, PoolOrCount, Section


class OptimizerSpec(Section):
    """AdamW or SGD with linear-scaled learning rate, warm-up and cosine (defaults: the MoBY recipe)."""

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate_base: float = Field(default=1e-3, gt=0)
    """Peak rate for `images_per_step_of_base_rate` images per global step; scaled linearly with
    images_per_step_global."""
    learning_rate_warmup_base: float = Field(default=5e-7, ge=0)
    """Rate of the first step, scaled the same way."""
    learning_rate_min_base: float = Field(default=5e-6, ge=0)
    """Rate of the last step, scaled the same way."""
    images_per_step_of_base_rate: int = Field(default=512, ge=1)
    """Global batch that the rates are given for (MoBY 512; SynCo, MoCo v3 and DINO 256)."""
    warmup_epochs: float = Field(default=5.0, ge=0)
    """Epochs of linear warm-up."""
    decay: Literal["linear", "step"] | None = None
    """How the rate falls after the warm-up. Left out: along a cosine to learning_rate_min_base; linear:
    straight to it; step: to a tenth after every `decay_every_epochs`, with no minimum."""
    decay_every_epochs: float | None = Field(default=None, gt=0)
    """With decay step: epochs between two drops, counted from the start of the run."""
    cosine_includes_warmup: bool = True
    """Whether the cosine's clock runs during the warm-up (MoBY) or starts after it (DINO, MoCo v3)."""
    schedule_every: Literal["step", "epoch"] = "step"
    """How often the rate changes (SynCo: once an epoch)."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decay of the parameters that `weight_decay_of` names; the others have none."""
    weight_decay_of: Literal["matrices", "matrices_and_tokens", "all"] = "matrices"
    """matrices: without 1-D parameters, biases, and what the backbone exempts (positions, tokens, bias
    tables); matrices_and_tokens: those too (DINO, the code of MoBY and SynCo-v2); all: everything (MoCo)."""
    weight_decay_end: float | None = Field(default=None, ge=0)
    """Decay at the end of training, reached by a cosine (DINO: 0.4); constant when left out."""
    betas: tuple[float, float] = Field(default=(0.9, 0.999), strict=False)
    """AdamW's decay rates of the two moments."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW's epsilon."""
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's momentum."""
    gradient_clip_norm: float | None = Field(default=5.0, gt=0)
    """Largest global L2 norm of the gradient; null never clips."""


class CheckpointSpec(Section):
    """When the state of a run is published."""

    every_epochs: int = Field(default=1, ge=1)
    """Publish at the end of every n-th epoch (and always at the end, on SIGTERM and on Ctrl-C)."""
    every_steps: int | None = Field(default=None, ge=1)
    """Publish also every n steps."""
    every_minutes: float | None = Field(default=None, gt=0)
    """Publish also when the last one is so old."""
    keep: int = Field(default=3, ge=1)
    """How many of the newest whole checkpoints stay."""


class StartSpec(Section):
    """Networks and queues of another run, to begin with; optimizer, schedules and plan start anew."""

    run: str = Field(min_length=1)
    """URI of that run's folder."""
    step: int | None = Field(default=None, ge=0)
    """The checkpoint after this many steps; the newest when left out."""
    queues: Literal["keep", "refill"] = "keep"
    """keep: take its queues, which must have the job's size; refill: begin with random directions."""


class TrainSpec(Section):
    """The distributed training run."""

    images_per_step_global: int = Field(ge=1)
    """Images in one optimizer step, over all workers."""
    epochs: int = Field(ge=1)
    """Passes over the plan."""
    start_from: StartSpec | None = None
    """Begin with what another run has learned."""
    workers: PoolOrCount = Field(default=Pool(min=1, max=1), json_schema_extra=EXECUTION_ONLY)
    """DDP processes; with {min, max} as many as fit, fewer when nodes go, more when nodes come."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Autocast of the networks; loss and queue are always float32. auto: bf16 on a GPU, else float32."""
    compile: bool = Field(default=False, json_schema_extra=EXECUTION_ONLY)
    """torch.compile the encoders: slower to start, faster steps on a GPU."""
    channels_last: bool = Field(default=False, json_schema_extra=EXECUTION_ONLY)
    """Channels as the innermost axis: faster for convolutional networks on a GPU."""
    gradient_checkpointing: bool = Field(default=False, json_schema_extra=EXECUTION_ONLY)
    """Blocks of the online encoder run again in backward: a third more time, far less memory."""
    images_per_pass_max: int | None = Field(default=None, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Most images that go through a backbone at once on one worker; more are taken in parts that run again in
    backward. Same result, a third more time, memory of one part: for fewer workers than the memory was
    planned for. Not for backbones with batch norms."""
    optimizer: OptimizerSpec = OptimizerSpec()
    checkpoint: CheckpointSpec = Field(default=CheckpointSpec(), json_schema_extra=EXECUTION_ONLY)
    nonfinite_steps_max: int = Field(default=10, ge=0, json_schema_extra=EXECUTION_ONLY)
    """Steps in a row with a non-finite loss or gradient (each is skipped) before the run stops."""
    failures_max: int = Field(default=3, ge=0, json_schema_extra=EXECUTION_ONLY)
    """Failures of workers or nodes, without a new checkpoint between them, before the run ends."""
    resize_every_s: float = Field(default=60.0, gt=0, json_schema_extra=EXECUTION_ONLY)
    """With workers: {min, max}, shortest time between a start of the workers and one with more of them."""
    collective_timeout_s: float = Field(default=600.0, gt=0, json_schema_extra=EXECUTION_ONLY)
    """Longest wait for another rank before the run fails with the names of those missing."""
