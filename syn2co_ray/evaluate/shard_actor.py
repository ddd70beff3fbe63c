"""The embedding actor: holds networks, takes numbers of shards, leaves whole files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from ..spec.errors import Syn2coError, error_to_json
from ..storage import Store, exists
from .feature_shards import Network
from .networks import PackedNetwork, unpacked
from .shard_files import ShardPlan, make_shard, publish_shard, shard_footer, unreadable_of


@dataclass(frozen=True)
class Task:
    """All shards of one source by one network in one view."""

    plan: ShardPlan
    network: int
    """Place in `Assignment.networks`."""


@dataclass(frozen=True)
class Assignment:
    """What all actors need, sent once a node."""

    folder: Store
    tasks: tuple[Task, ...]
    networks: tuple[PackedNetwork, ...]


class FeatureActor:
    """Ray Data calls it with blocks of one row: the place of a task and the number of a shard.

    A shard that lies there already is left as it is: Ray gives a row again when the actor before was lost,
    and that one may have got as far. Out comes one row a shard: task, shard, images, unreadable, seconds,
    the actor's name, or `error`, which the driver raises.
    """

    def __init__(self, boxed: list[Any], device: str, decode_threads: int) -> None:
        # Without Ray the box holds the assignment itself.
        here = isinstance(boxed[0], Assignment)
        self.assignment: Assignment = boxed[0] if here else ray.get(boxed[0])
        self.device, self.decode_threads = torch.device(device), decode_threads
        self._networks: dict[int, Network] = {}
        self._name = "" if here else ray.get_runtime_context().get_actor_id() or ""

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        row = self.make(int(block["task"][0]), int(block["shard"][0]))
        return {name: np.array([value]) for name, value in row.items()}

    def make(self, task: int, shard: int) -> dict[str, Any]:
        """Make one shard and publish it; see the class for what is answered."""
        started = time.perf_counter()
        images, unreadable, error = 0, 0, ""
        try:
            images, unreadable = self._publish(self.assignment.tasks[task], shard)
        except Syn2coError as failure:
            # As data: of what its workers raise, Ray Data keeps only a traceback.
            error = error_to_json(failure)
        return {
            "task": task,
            "shard": shard,
            "images": images,
            "unreadable": unreadable,
            "seconds": time.perf_counter() - started,
            "actor": self._name,
            "error": error,
        }

    def _publish(self, task: Task, shard: int) -> tuple[int, int]:
        folder, file = self.assignment.folder, task.plan.file_of(shard)
        if exists(folder, file):
            rows, unreadable = shard_footer(folder, file)
            return rows, len(unreadable)
        network = self._network(task.network)
        table = make_shard(task.plan, shard, network.embed, self.device, self.decode_threads)
        publish_shard(folder, file, table)
        return table.num_rows, len(unreadable_of(table))

    def _network(self, place: int) -> Network:
        if place not in self._networks:
            # One at a time: a row's network is mostly that of the row before.
            self._networks = {place: unpacked(self.assignment.networks[place], self.device)}
        return self._networks[place]
