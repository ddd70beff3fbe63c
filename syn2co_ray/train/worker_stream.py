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

PREFETCHED_BLOCKS = 2


class WorkerStream:
    """Asks for the first block at once, in the background: readers and view actors start while this
    process loads torch and builds the model, which takes about as long.
    """

    def __init__(self, board: Any) -> None:
        self._board = board
        self._rank = ray.train.get_context().get_world_rank()
        shard = ray.train.get_dataset_shard("train")
        self._blocks = iter(
            shard.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=PREFETCHED_BLOCKS)
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
        yield from steps_of_blocks(self._own_errors(self._all_blocks()), self._rank, first_step)

    def _fetch_first(self) -> Any:
        block = next(self._blocks, None)
        self._board.mark.remote("first block", time.time())
        return block

    def _all_blocks(self) -> Iterator[dict[str, Any]]:
        first = self._first.result()
        self._pool.shutdown()
        if first is not None:
            yield first
            yield from self._blocks

    def _own_errors(self, blocks: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
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
