"""A Ray Train worker: builds the loop's context from Ray and runs the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist

from ..data.stream import StepRecords, steps_of_blocks
from ..spec.errors import DataError, Syn2coError
from .board import BoardClient
from .context import TrainContext
from .loop import TrainLoop

PREFETCHED_BLOCKS = 2


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Entry point of every rank; `config` is what `train.pretrain` put together.

    A fault of the user's data or spec is returned, not raised: Ray Train would restart the workers
    and meet it again.
    """
    board = BoardClient(config["board"])
    board.board.mark.remote("workers started", time.time())
    context = ray_context(board)
    try:
        loop = TrainLoop(
            config["job"], context, config["run"], config["steps_per_epoch"], evaluate=config["evaluate"]
        )
        board.board.mark.remote("model built", time.time())
        outcome = loop.run_to_end()
        results = config["finish"](loop, outcome, context) if config["finish"] else None
        return {"outcome": asdict(outcome), "results": results, "device": str(context.device)}
    except Syn2coError as error:
        return {"error": error}


def ray_context(board: BoardClient) -> TrainContext:
    """This worker's place, as Ray Train knows it."""
    place = ray.train.get_context()
    rank, world_size = place.get_world_rank(), place.get_world_size()
    device = ray.train.torch.get_device()
    first = rank == 0
    return TrainContext(
        rank=rank,
        world_size=world_size,
        device=device,
        records=lambda first_step: _records(rank, first_step, board),
        control_group=dist.new_group(backend="gloo") if world_size > 1 else None,
        show=board.show if first else lambda progress: None,
        stop_requested=board.stop_requested if first else lambda: False,
    )


def _records(rank: int, first_step: int, board: BoardClient) -> Iterator[StepRecords]:
    planned = ray.get(board.board.position.remote())
    if planned != first_step:
        raise DataError(
            "data stream",
            f"was started at step {planned}, the checkpoint is at step {first_step}",
            "the same step",
            "resume the run",
        )
    shard = ray.train.get_dataset_shard("train")
    blocks = iter(shard.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=PREFETCHED_BLOCKS))
    steps = steps_of_blocks(_unwrapped(blocks), rank, first_step)
    for records in steps:
        if records.step == first_step:
            board.board.mark.remote("first batch", time.time())
        yield records


def _unwrapped(blocks: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Blocks, with our own errors taken out of the wrappers Ray puts around them."""
    try:
        yield from blocks
    except Exception as error:
        found = own_error(error)
        if found is None:
            raise
        raise found from None


def own_error(error: BaseException | None) -> Syn2coError | None:
    """The Syn2coError inside Ray's layers of errors, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, Syn2coError):
            return error
        seen.add(id(error))
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return None


def device_name(device: torch.device) -> str:
    """Name of the hardware a run was trained on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
