"""A training run without Ray: the same stream, actor and loop in plain processes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from syn2co_ray.augment.actor import ViewActor
from syn2co_ray.data.stream import StepRecords, Stream, blocks_of_window, remaining_windows, steps_of_blocks
from syn2co_ray.spec.job import TrainingSpec
from syn2co_ray.spec.load import load_text
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import list_files, open_store, read_bytes
from syn2co_ray.submit.prepare import PreparedRun, prepare_run
from syn2co_ray.train.context import TrainContext
from syn2co_ray.train.loop import Begin, Evaluate, TrainLoop
from syn2co_ray.train.wish import Wish

TINY = """\
kind: pretrain
name: tiny
seed: 3
storage: {folder}/runs
data:
  prepare: [{{dataset: digits, into: {folder}/digits}}]
  train: [{{uri: {folder}/digits/train}}]
  eval: {{uri: {folder}/digits/eval}}
  window_images: 128
  images_per_epoch: 160
augment: {{recipe: byol, image_size: 16, crop_scale: [0.4, 1.0], flip_probability: 0}}
method:
  framework: synby
  backbone: vit_tiny_patch16_224
  patch_size: 8
  backbone_options: {{embed_dim: 32, depth: 2, num_heads: 2}}
  drop_path_online: 0.2
  hidden_features: 48
  output_features: 16
  queue_size_features: 72
  negatives: {{hardest: 16, interpolated: 4, extrapolated: 4, mixup: 4, noise: 4, perturbed: 4, adversarial: 4}}
train:
  images_per_step_global: 32
  epochs: 4
  optimizer: {{learning_rate_base: 0.02, warmup_epochs: 1}}
evaluate: {{knn: {{neighbours: [5, 10]}}, linear: {{epochs: 5}}}}
"""


def tiny_job(folder: Path, *overrides: str, text: str = TINY) -> TrainingSpec:
    return load_text(text.format(folder=folder), overrides)


def local_records(
    stream: Stream, job: TrainingSpec, rank: int, world_size: int, first_step: int
) -> Iterator[StepRecords]:
    """What Ray Data would deliver to a rank, made in this process."""
    actor = ViewActor([stream], job.augment, job.seed, job.data.image_pixels_max)

    def blocks() -> Iterator[dict[str, Any]]:
        for number in remaining_windows(stream.plan, first_step):
            for block in blocks_of_window(stream, number, world_size, first_step):
                if block["rank"][0].as_py() == rank:
                    yield actor(block)

    return steps_of_blocks(blocks(), rank, first_step)


def local_loop(
    prepared: PreparedRun,
    *,
    rank: int = 0,
    world_size: int = 1,
    control_group: Any = None,
    stop_before_step: int | None = None,
    change_views: Callable[[int, list[np.ndarray]], list[np.ndarray]] | None = None,
    keys_seen: Callable[[int, list[str]], None] | None = None,
    stop_after_epochs: int | None = None,
    evaluate: Evaluate | None = None,
    begin: Begin | None = None,
) -> TrainLoop:
    """A loop ready to run; each step's loss and digest of keys are in `loop.losses`, `loop.digests` then."""
    job = prepared.job
    losses: dict[int, float] = {}
    digests: dict[int, int] = {}

    def records(first_step: int) -> Iterator[StepRecords]:
        for step in local_records(prepared.stream, job, rank, world_size, first_step):
            if change_views is not None:
                step = StepRecords(**{**vars(step), "views": change_views(step.step, step.views)})
            yield step

    context = TrainContext(
        rank=rank,
        world_size=world_size,
        device=torch.device("cpu"),
        records=records,
        control_group=control_group,
        keys_seen=keys_seen,
    )
    steps = prepared.plan.steps_per_epoch
    loop = TrainLoop(job, context, prepared.run, steps, evaluate, stop_after_epochs, begin)

    def show(row: dict[str, Any]) -> None:
        if "loss" in row:
            losses[row["step"]], digests[row["step"]] = row["loss"], row["keys_digest"]

    context.show = show
    stops = stop_before_step is not None
    context.wish = lambda: Wish.STOP if stops and loop.step >= stop_before_step else Wish.GO_ON
    loop.losses, loop.digests = losses, digests  # type: ignore[attr-defined]
    return loop


def rows_of(uri: str) -> list[dict[str, Any]]:
    """Metrics of the only run below a place, step after step."""
    store = open_store(uri, ObjectStoreSpec())
    files = [file.path for file in list_files(store) if re.search(r"\bmetrics/steps-.*\.jsonl$", file.path)]
    return [json.loads(line) for file in files for line in read_bytes(store, file).decode().splitlines()]


def prepared(folder: Path, *overrides: str, text: str = TINY) -> PreparedRun:
    return prepare_run(tiny_job(folder, *overrides, text=text), lambda text: None)
