"""A Ray Train worker: builds the context of its rank from Ray, and runs the training loop or other work."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray.train
import ray.train.torch

from ..spec.errors import Syn2coError
from ..spec.identity import run_name
from ..storage import RunLog, Store, run_log
from .board import BoardClient
from .context import TrainContext
from .loop import Begin, Evaluate, LoopOutcome, TrainLoop
from .process_group import is_timeout, joined
from .worker_stream import WorkerStream
from .worker_task import WorkerTask

_log = logging.getLogger(__name__)

TIMEOUT_FIELD = "train.collective_timeout_s"

Work = Callable[[TrainContext, RunLog], dict[str, Any]]
"""What a rank does; its value on rank 0 is the run's answer."""

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

    def work(context: TrainContext, log: RunLog) -> dict[str, Any]:
        context.records = stream.steps_from
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
        task.board.mark.remote("model built", time.time())
        outcome = loop.run_to_end()
        results = finish(loop, outcome, context) if finish else None
        return {"outcome": asdict(outcome), "results": results, "device": str(context.device)}

    timeout_s = task.job.train.collective_timeout_s
    return run_rank(run_name(task.job), task.run.store, task.board, timeout_s, TIMEOUT_FIELD, work)


def run_rank(
    name: str, store: Store, board: Any, timeout_s: float, timeout_field: str, work: Work
) -> dict[str, Any]:
    """Do the work of this rank among the others of its start.

    Args:
        name: of the run, for its log.
        store: its folder.
        board: see `Board`.
        timeout_s: longest wait for another rank.
        timeout_field: where a user may change that.
        work: gets this rank's context, without records.

    Returns:
        What `work` returned, or {"error": ...} for a fault that all ranks ended with.

    Raises:
        Syn2coError: a fault of this rank alone. `FailuresInARow` ends the run with it: a restart would only
            meet it again.
    """
    rank = ray.train.get_context().get_world_rank()
    with run_log(f"rank-{rank:05d}", name, store) as log:
        try:
            return _joined_work(rank, BoardClient(board), timeout_s, timeout_field, work, log)
        except Exception:
            _log.exception("rank %d failed", rank)
            raise


def _joined_work(
    rank: int, board: BoardClient, timeout_s: float, timeout_field: str, work: Work, log: RunLog
) -> dict[str, Any]:
    world_size = ray.train.get_context().get_world_size()
    device = ray.train.torch.get_device()
    board.joined(rank)
    _log.info("rank %d of %d on %s, %s", rank, world_size, socket.gethostname(), device)
    try:
        with joined(rank, world_size, device, timeout_s) as control_group:
            context = TrainContext(rank, world_size, device, control_group=control_group)
            context.pause = lambda step: board.pause(step, rank)
            if rank == 0:
                context.show, context.wish = board.show, board.wish
            return work(context, log)
    except Syn2coError as error:
        _log.error("%s", error)
        if not board.all_gave_up(rank, world_size):
            # Raised, so that the others, which wait for this one, are ended at once.
            raise
        return {"error": error}
    except RuntimeError as error:
        if not is_timeout(error):
            raise
        silent = board.waited_in_vain(rank, timeout_s)
        # Raised, so that the workers start again: a machine that hangs is left behind.
        raise TimeoutError(f"{silent}; if their steps may take longer, raise {timeout_field}") from error
