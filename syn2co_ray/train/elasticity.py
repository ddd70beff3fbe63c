"""How many workers, and what happens when nodes come and go: policies of Ray Train's controller.

Ray's own elastic policy asks a coordinator whose view of the cluster is up to 20 s old, and waits out the
start of workers on nodes that are gone; its scale-up throws away the steps since the last checkpoint, and a
node that is told to go keeps its workers until it is gone. Here the nodes are looked at directly, and workers
are asked for a checkpoint and a pause before they are started again, more or elsewhere.

Everything of Ray Train that is not public is used in this file alone.
"""

from __future__ import annotations

import time
from typing import Any

import ray
import ray.train
from ray._private.state import state as cluster_state
from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import ResourceRequestPriority
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2._internal.util import ObjectRefWrapper
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from ..spec.errors import RunInterrupted
from .room import Room
from .wish import Wish
from .worker_stream import own_error

LOOK_EVERY_S = 1.0
ASK_EVERY_S, ASKED_FOR_S = 20.0, 180.0
"""How often the autoscaler is asked for nodes, and for how long it is, as Ray Train does for the workers."""
SETTLE_S = 3.0
"""Nodes must have been there, or been gone, for so long: they often come several at a time."""
PAUSE_WITHIN_S = 30.0
"""Workers that nodes have left too many of may wait for images that nobody has room to make: they never come
to the step after which they could pause, and are started again without one."""


class WorkersThatFit(ElasticScalingPolicy):
    """As many workers as fit now; fewer when nodes are gone or told to go, more when nodes came."""

    def __init__(
        self, scaling_config: ray.train.ScalingConfig, room: Room, board: Any, every_s: float
    ) -> None:
        super().__init__(scaling_config)
        self.room, self.board, self.every_s = room, board, every_s
        self._looked_at = self._changed_since = self._pausing_since = float("-inf")
        self._pausing_for: int | None = None
        self._warned_of: frozenset[str] = frozenset()
        self._said_waiting = False
        self._asked_beside_at = float("-inf")

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start with what is there; wait when it is too little.

        Raises:
            RunInterrupted: asked to stop: without workers there is nothing to publish.
        """
        if self._wished() is Wish.STOP:
            step = "run the same command to go on from the newest checkpoint, if there is one"
            raise RunInterrupted("train", "stopped while no workers ran", "", step)
        self._maybe_send_resource_request()
        count = self.room.fitting(self._nodes(self._leaving()))
        if count is None:
            if not self._said_waiting:
                words = f"waiting for room for {self.room.counts[0]} workers on the cluster"
                self.board.post.remote({"warning": words})
            self._said_waiting = True
            self._ask_for_the_rest()
            return NoopDecision()
        self._said_waiting, self._pausing_for = False, None
        self._leave_the_rest_to_those_who_use_it()
        return self._resized(count)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Move when a node will go, shrink when nodes went and left workers, grow when nodes came."""
        self._maybe_send_resource_request()
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return NoopDecision()
        self._looked_at = now
        leaving = self._leaving()
        count = self.room.fitting(self._nodes(leaving))
        workers = worker_group_state.num_workers
        concerned = leaving & {worker.metadata.node_id for worker in worker_group_state.workers}
        if count is None:
            return self._save_what_there_is(concerned) if concerned else self._as_it_is()
        if count == workers and not concerned:
            return self._as_it_is()
        if concerned:
            return self._after_a_pause(count, f"a node will go: {workers} to {count} workers", now)
        if not self._has_settled(now):
            return NoopDecision()
        if count < workers:
            reason = f"nodes went: {workers} to {count} workers"
            return self._after_a_pause(count, reason, now, PAUSE_WITHIN_S)
        if now - worker_group_state.start_time < self.every_s:
            return NoopDecision()
        return self._after_a_pause(count, f"nodes came: {workers} to {count} workers", now)

    def _ask_for_the_rest(self) -> None:
        """Ask the autoscaler for what feeds the workers.

        Ray Train asks for the workers alone, and Ray Data for its actors only once they run.
        """
        now = time.monotonic()
        if now - self._asked_beside_at < ASK_EVERY_S:
            return
        self._asked_beside_at = now
        self._autoscaling_coordinator.request_resources.remote(
            requester_id=f"{self._requester_id}-beside",
            resources=[self._bundle(cpus, gpus) for cpus, gpus in self.room.beside],
            expire_after_s=ASKED_FOR_S,
            priority=ResourceRequestPriority.HIGH,
        )

    def _leave_the_rest_to_those_who_use_it(self) -> None:
        if self._asked_beside_at > float("-inf"):
            self._autoscaling_coordinator.cancel_request.remote(f"{self._requester_id}-beside")
            self._asked_beside_at = float("-inf")

    def _after_a_pause(
        self, count: int, reason: str, now: float, within_s: float = float("inf")
    ) -> ScalingDecision:
        # Asked again where a start that came meanwhile has forgotten it.
        if self._pausing_for is None or self._wished() in (Wish.GO_ON, Wish.CHECKPOINT):
            ray.get(self.board.ask.remote(Wish.PAUSE, reason))
            self._pausing_since = now
        self._pausing_for = count
        paused = ray.get(self.board.paused_at.remote()) is not None
        if not paused and now - self._pausing_since < within_s:
            return NoopDecision()
        self._pausing_for, self._changed_since = None, float("-inf")
        return self._resized(count)

    def _as_it_is(self) -> ScalingDecision:
        """What a pause was asked for is over before it began."""
        if self._pausing_for is not None:
            self.board.go_on.remote()
        self._pausing_for, self._changed_since = None, float("-inf")
        return NoopDecision()

    def _save_what_there_is(self, leaving: frozenset[str]) -> ScalingDecision:
        """No room elsewhere: a checkpoint is all that can be had before the node goes."""
        if not leaving <= self._warned_of:
            self.board.ask.remote(Wish.CHECKPOINT)
        self._warned_of = self._warned_of | leaving
        return NoopDecision()

    def _wished(self) -> Wish:
        return ray.get(self.board.wished.remote())[1]

    def _has_settled(self, now: float) -> bool:
        if self._changed_since == float("-inf"):
            self._changed_since = now
        return now - self._changed_since >= SETTLE_S

    def _resized(self, count: int) -> ScalingDecision:
        each = self._bundle(self.room.cpus_each, self.room.gpus_each)
        return ResizeDecision(num_workers=count, resources_per_worker=each)

    def _bundle(self, cpus: float, gpus: float) -> dict[str, float]:
        return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}

    def _leaving(self) -> frozenset[str]:
        """Nodes that were told to go (preemption notice, drain)."""
        return frozenset(cluster_state.get_draining_nodes())

    def _nodes(self, leaving: frozenset[str]) -> list[dict[str, float]]:
        return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]


class FailuresInARow(DefaultFailurePolicy):
    """Counts failures since the last checkpoint: a long run on spot nodes may meet any number of them.

    An error of ours is met again whatever is started, and ends the run.
    """

    def __init__(self, failure_config: ray.train.FailureConfig, board: Any) -> None:
        super().__init__(failure_config)
        self.board = board
        self._checkpoint_then = 0

    def make_decision(self, training_failed_error: Any) -> Any:
        failures = getattr(training_failed_error, "worker_failures", None) or {}
        if any(own_error(failure) for failure in failures.values()):
            return FailureDecision.RAISE
        checkpoint = ray.get(self.board.checkpointed.remote())
        if checkpoint > self._checkpoint_then:
            self._worker_group_failures = self._controller_failures = self._preemption_failures = 0
        self._checkpoint_then = checkpoint
        ray.get(self.board.failed.remote(_in_a_line(training_failed_error)))
        return super().make_decision(training_failed_error)


def _in_a_line(error: Any) -> str:
    failures = getattr(error, "worker_failures", None) or {}
    ranks = ", ".join(str(rank) for rank in sorted(failures))
    return f"rank {ranks} failed" if ranks else type(error).__name__


class ElasticTrainer(DataParallelTrainer):
    """Ray Train's framework-neutral trainer with the policies of this file."""

    def __init__(self, *args: Any, room: Room, board: Any, resize_every_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._room, self._board, self._resize_every_s = room, board, resize_every_s

    def fit(self) -> ray.train.Result:
        """See `DataParallelTrainer.fit`."""
        policy = WorkersThatFit(self.scaling_config, self._room, self._board, self._resize_every_s)
        result = self._initialize_and_run_controller(
            train_fn_ref=ObjectRefWrapper(self._get_train_func()),
            scaling_policy=policy,
            failure_policy=FailuresInARow(self.run_config.failure_config, self._board),
            train_run_context=self.train_run_context,
            callbacks=self._create_default_callbacks(),
            validation_config=self.validation_config,
        )
        if result.error:
            raise result.error
        return result
