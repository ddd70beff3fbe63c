"""A worker's end of the plan's stream. Imports no torch, so the stream can start before torch is loaded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray
import ray.train

from ..data.stream import StepRecords, steps_of_blocks
from ..spec.errors import DataError, Syn2coError
from .worker_task import WorkerTask

PREFETCHED_BLOCKS = 2


class WorkerStream:
    """Asks for the first block at once, in the background: readers and view actors start while this
    process loads torch and builds the model, which takes about as long.
    """

    def __init__(self, task: WorkerTask) -> None:
        self._task, self._board = task, task.board
        self._makes_views = task.job.augment.placement == "trainer"
        self._rank = ray.train.get_context().get_world_rank()
        shard = ray.train.get_dataset_shard("train")
        batch_format = "pyarrow" if self._makes_views else "numpy"
        self._blocks = iter(
            shard.iter_batches(batch_size=1, batch_format=batch_format, prefetch_batches=PREFETCHED_BLOCKS)
        )
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="first-block")
        self._first: Future[Any] = self._pool.submit(self._fetch_first)

    def steps_from(self, first_step: int) -> Iterator[StepRecords]:
        """This rank's records from the position the stream was started at.

        Raises:
            DataError: the checkpoint that was loaded is at another step than the stream.
        """
        planned = ray.get(self._board.position.remote())
        if planned != first_step:
            raise DataError(
                "data stream",
                f"was started at step {planned}, the checkpoint is at step {first_step}",
                "the same step",
                "resume the run",
            )
        blocks = self._own_errors(self._all_blocks())
        if self._makes_views:
            # Only now: by this time torch has been imported, and the device is known.
            from ray.train.torch import get_device

            from .own_views import OwnViews

            blocks = OwnViews(self._task.job, self._task.boxed, str(get_device()))(blocks)
        yield from steps_of_blocks(blocks, self._rank, first_step)

    def _fetch_first(self) -> Any:
        block = next(self._blocks, None)
        self._board.mark.remote("first block", time.time())
        return block

    def _all_blocks(self) -> Iterator[Any]:
        first = self._first.result()
        self._pool.shutdown()
        if first is not None:
            yield first
            yield from self._blocks

    def _own_errors(self, blocks: Iterator[Any]) -> Iterator[Any]:
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
        cause = getattr(error, "cause", None) or getattr(error, "controller_failure", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return None
