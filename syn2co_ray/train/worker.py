"""A Ray Train worker: builds the loop's context from Ray and runs the loop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray.train
import ray.train.torch

from ..spec.errors import Syn2coError
from ..spec.identity import run_name
from ..storage import RunLog, run_log
from .board import BoardClient
from .context import TrainContext
from .loop import Begin, Evaluate, LoopOutcome, TrainLoop
from .process_group import is_timeout, joined
from .worker_stream import WorkerStream
from .worker_task import WorkerTask

_log = logging.getLogger(__name__)

TIMEOUT_FIELD = "train.collective_timeout_s"

Finish = Callable[[TrainLoop, LoopOutcome, TrainContext], Any]
"""Called on all ranks after the loop; its value on rank 0 becomes the run's results."""


def run_worker(
    task: WorkerTask,
    stream: WorkerStream,
    evaluate: Evaluate | None,
    finish: Finish | None,
    begin: Begin | None = None,
) -> dict[str, Any]:
    """Train on this rank; what comes back on rank 0 is the run's answer.

    A fault of the user's data or spec is returned, not raised: Ray Train would restart the workers
    and meet it again.
    """
    rank = ray.train.get_context().get_world_rank()
    with run_log(f"rank-{rank:05d}", run_name(task.job), task.run.store) as log:
        try:
            return _run(task, stream, evaluate, finish, begin, log)
        except Exception:
            _log.exception("rank %d failed", rank)
            raise


def _run(
    task: WorkerTask,
    stream: WorkerStream,
    evaluate: Evaluate | None,
    finish: Finish | None,
    begin: Begin | None,
    log: RunLog,
) -> dict[str, Any]:
    board = BoardClient(task.board)
    place = ray.train.get_context()
    rank, world_size = place.get_world_rank(), place.get_world_size()
    device = ray.train.torch.get_device()
    board.joined(rank)
    _log.info("rank %d of %d on %s, %s", rank, world_size, socket.gethostname(), device)
    try:
        with joined(rank, world_size, device, task.job.train.collective_timeout_s) as control_group:
            context = TrainContext(
                rank=rank,
                world_size=world_size,
                device=device,
                records=stream.steps_from,
                control_group=control_group,
            )
            context.pause = lambda step: board.pause(step, rank)
            if rank == 0:
                context.show, context.wish = board.show, board.wish
            loop = TrainLoop(
                task.job,
                context,
                task.run,
                task.steps_per_epoch,
                evaluate=evaluate,
                stop_after_epochs=task.stop_after_epochs,
                begin=begin,
            )
            log.step = lambda: loop.step
            board.mark("model built")
            outcome = loop.run_to_end()
            results = finish(loop, outcome, context) if finish else None
    except Syn2coError as error:
        _log.error("%s", error)
        return {"error": error}
    except RuntimeError as error:
        if not is_timeout(error):
            raise
        silent = board.waited_in_vain(rank, task.job.train.collective_timeout_s)
        # Raised, so that the workers start again: a machine that hangs is left behind.
        raise TimeoutError(f"{silent}; if their steps may take longer, raise {TIMEOUT_FIELD}") from error
    return {"outcome": asdict(outcome), "results": results, "device": str(device)}
