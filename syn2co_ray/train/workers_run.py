"""Work of several processes on a Ray cluster, and what the driver sees of it.

The trainer is Ray Train's framework-neutral one; workers join torch's process group themselves (see
`process_group`), which keeps torch out of the driver and of Ray's controller.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.train
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..spec.errors import Syn2coError, TrainingError
from .board import Board
from .elasticity import ElasticTrainer
from .room import Room
from .wish import Wish
from .worker_stream import own_error

CONTROLLER_FAILURES_MAX = 3
"""Ray's default is to retry for ever when workers cannot be placed; a user should hear of it."""


@dataclass(frozen=True)
class Workers:
    """What every rank runs, and how many there are.

    Attributes:
        function: of `task`; its value on rank 0 is the run's answer.
        task: what every rank gets.
        room: which numbers of processes are allowed, and what they need.
        failures_max: restarts in a row without a new checkpoint.
        resize_every_s: shortest time between starts with more workers.
        feed: Ray Train's arguments about data sets.
    """

    function: Callable[[Any], dict[str, Any]]
    task: Any
    room: Room
    failures_max: int
    resize_every_s: float
    feed: dict[str, Any] = field(default_factory=dict)


class WorkersRun:
    """A run in the background: look at it, ask it to stop, wait for its result."""

    def __init__(self, name: str, kind: str, workers: Callable[[Any], Workers]) -> None:
        """Prepare a run; `start` starts it.

        Args:
            name: of the run.
            kind: label of its metrics, such as the framework's name.
            workers: run's board -> what its workers are.
        """
        self.name, self.kind, self.workers = name, kind, workers
        self.board: Any = None
        self._thread = threading.Thread(target=self._fit, name="trainer", daemon=True)
        self._answer: dict[str, Any] | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the trainer in a thread: Ray's own signal handling stays out of the way, ours saves state."""
        # On the driver's node, like Ray Train's controller: other nodes may go.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board = Board.options(scheduling_strategy=here).remote(  # type: ignore[attr-defined]
            self.name, self.kind
        )
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait a while; True when the run has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def look(self) -> dict[str, Any]:
        """Progress, evaluations and start-up marks so far."""
        return ray.get(self.board.look.remote())

    def ask_to_stop(self) -> None:
        """Publish a checkpoint at the next step and end."""
        self.board.ask.remote(Wish.STOP)

    def result(self) -> dict[str, Any]:
        """What rank 0 returned.

        Raises:
            Syn2coError: the run failed.
        """
        if self._error is not None:
            raise _readable(self._error) from self._error
        if self._answer is None:
            raise TrainingError(
                "train", "the run ended without a result", "", "see the Ray logs; resume the run"
            )
        if "error" in self._answer:
            raise self._answer["error"]
        return self._answer

    def end(self) -> None:
        """Export the run's metrics no longer."""
        self.board.end.remote()

    def _fit(self) -> None:
        # Ray Train's controller, on this node, keeps notes that nobody reads: our checkpoints continue.
        # In the run's storage they would be written without our patience with stores that fail.
        try:
            with tempfile.TemporaryDirectory(prefix="ray-train-", ignore_cleanup_errors=True) as notes:
                self._answer = self._trainer(notes).fit().return_value
        except BaseException as error:
            self._error = error

    def _trainer(self, notes: str) -> ElasticTrainer:
        workers = self.workers(self.board)
        room = workers.room
        return ElasticTrainer(
            _unpacked(workers.function),
            train_loop_config={"task": workers.task},
            scaling_config=ray.train.ScalingConfig(
                num_workers=(room.counts[0], room.counts[-1]),
                use_gpu=room.gpus_each > 0,
                resources_per_worker=_resources(room.cpus_each, room.gpus_each),
            ),
            run_config=ray.train.RunConfig(
                storage_path=notes,
                failure_config=ray.train.FailureConfig(
                    max_failures=workers.failures_max, controller_failure_limit=CONTROLLER_FAILURES_MAX
                ),
            ),
            room=room,
            board=self.board,
            resize_every_s=workers.resize_every_s,
            **workers.feed,
        )


def _unpacked(worker: Callable[[Any], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Ray Train hands its workers a dict; ours take a task."""

    def train_loop(config: dict[str, Any]) -> dict[str, Any]:
        return worker(config["task"])

    return train_loop


def _resources(cpus: float, gpus: float) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


def _readable(error: BaseException) -> Syn2coError:
    """The run's failure as one of our errors: our own if it is one, else the workers' last words."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in [*failures.values(), error]:
        found = own_error(failure)
        if found is not None:
            return found
    if failures:
        words = "; ".join(f"rank {rank}: {_last_line(failure)}" for rank, failure in sorted(failures.items()))
    else:
        words = _last_line(error)
    if "object store is full" in words:
        return _no_room_for_blocks(words)
    return TrainingError("train", words, "", "run the same command to resume from the newest checkpoint")


def _no_room_for_blocks(words: str) -> TrainingError:
    return TrainingError(
        "Ray's object store",
        words,
        "room in its memory, or on the disk that it spills to (Ray's temporary folder)",
        "free that disk or name another (ray start --object-spilling-directory); a smaller "
        "data.window_images and fewer augment.actors need less at once; then run the same command to resume",
    )


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
