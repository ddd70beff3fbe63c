"""Views made in the training worker itself: `augment.placement: trainer`. Imports no torch.

Threads of the worker decode and make views while its main thread trains. JPEG decoder, OpenCV and torch
release the interpreter while they work, so on free CPUs the step does not notice.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from ..augment.actor import ViewActor, actor_arguments
from ..spec.job import TrainingSpec
from .room import view_threads

LOOK_EVERY_S = 0.5
"""How long a thread that has no room for its block waits before it looks whether it is still wanted."""

Views = dict[str, Any]


class OwnViews:
    """Turns blocks of encoded records into blocks of views, in order, some ahead of their use."""

    def __init__(self, job: TrainingSpec, boxed: list[Any], device: str) -> None:
        """Build for one worker.

        Args:
            job: its `augment` section says how views are made.
            boxed: the run's `Stream`, or a reference to it, in a box (see `data.stream.fetch_stream`).
            device: where the worker trains; the torch backend makes views there.
        """
        self.threads = view_threads(job.train.workers.cpus_each)
        self._make = ViewActor(**actor_arguments(job, boxed), device=device)
        self._device = device

    def __call__(self, blocks: Iterator[pa.Table]) -> Iterator[Views]:
        """Views of each block; at most `threads` + 2 blocks of views are in memory.

        Raises:
            Whatever taking a block or making its views raised, in its place.
        """
        pool = ThreadPoolExecutor(self.threads, "views", initializer=self._begin_thread)
        return _ahead(blocks, lambda block: pool.submit(self._make, block), self.threads, pool.shutdown)

    def _begin_thread(self) -> None:
        if not self._device.startswith("cuda"):
            return
        import torch

        # A stream of its own: views do not queue behind the kernels of the step.
        torch.cuda.set_device(self._device)
        torch.cuda.set_stream(torch.cuda.Stream(self._device))


def _ahead(
    blocks: Iterator[pa.Table],
    begin: Callable[[pa.Table], Future[Views]],
    begun_max: int,
    end: Callable[..., None],
) -> Iterator[Views]:
    """Results of `begin` in the order of the blocks, which a thread takes as soon as there is room."""
    begun: queue.Queue[Future[Views] | None] = queue.Queue(begun_max)
    ended = threading.Event()

    def put(future: Future[Views] | None) -> bool:
        while not ended.is_set():
            try:
                begun.put(future, timeout=LOOK_EVERY_S)
                return True
            except queue.Full:
                continue
        return False

    def take() -> None:
        try:
            for block in blocks:
                if not put(begin(block)):
                    return
            put(None)
        except BaseException as error:
            failed: Future[Views] = Future()
            failed.set_exception(error)
            put(failed)

    threading.Thread(target=take, name="blocks", daemon=True).start()
    try:
        while (future := begun.get()) is not None:
            yield future.result()
    finally:
        ended.set()
        end(wait=False, cancel_futures=True)
