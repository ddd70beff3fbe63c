"""Connecting to Ray: the cluster that RAY_ADDRESS names, or one on this machine for the time of a run."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .autoscaler import autoscaler_limits, nodes_to_come
from .head_watch import HeadWatch


@dataclass(frozen=True)
class Cluster:
    """What a connected cluster can give, with the nodes that its autoscaler may add."""

    cpus: float
    node_gpus: tuple[float, ...]
    """GPUs of each node."""
    is_local: bool
    nodes_to_come: int = 0
    """How many of the nodes are not there yet; workers are started when there is room for them."""

    @property
    def gpus(self) -> float:
        return sum(self.node_gpus)

    @property
    def nodes(self) -> int:
        return len(self.node_gpus)


@contextlib.contextmanager
def connected(*, debug: bool = False) -> Iterator[Cluster]:
    """Connect for the time of the block.

    Without RAY_ADDRESS a cluster of this machine's CPUs and GPUs is started, bound to loopback and
    behind a token made for this run only; it ends with the block.

    Raises:
        TrainingError: the cluster's head died within the block.
    """
    address = os.environ.get("RAY_ADDRESS")
    import ray

    level = logging.INFO if debug else logging.ERROR
    already = ray.is_initialized()
    if not already:
        with contextlib.nullcontext() if debug else quiet_backend():
            if address:
                ray.init(log_to_driver=debug, logging_level=level)
            else:
                ray.init(
                    num_cpus=os.cpu_count(),
                    include_dashboard=False,
                    log_to_driver=debug,
                    logging_level=level,
                    _node_ip_address="127.0.0.1",
                )
    if not debug:
        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)
    watch = HeadWatch(ray.get_runtime_context().gcs_address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        limits = autoscaler_limits(watch.head) if address else None
        with watch:
            yield cluster_of(nodes, limits, is_local=not address)
    except ray.exceptions.RayError as error:
        if watch.answers():
            raise
        raise watch.lost(type(error).__name__) from error
    finally:
        if not already:
            ray.shutdown()


def cluster_of(
    nodes: Sequence[Mapping[str, float]], limits: dict[str, Any] | None, *, is_local: bool = False
) -> Cluster:
    """A cluster of nodes with these resources, as large as its autoscaler may make it."""
    coming = nodes_to_come(limits, len(nodes))
    every = [*nodes, *coming]
    return Cluster(
        sum(node.get("CPU", 0.0) for node in every),
        tuple(node.get("GPU", 0.0) for node in every),
        is_local,
        len(coming),
    )


@contextlib.contextmanager
def quiet_backend() -> Iterator[None]:
    """Ray's C++ part in this process writes no warnings about Ray Data's own doings to the terminal.

    It takes its level when it starts, and says so on the terminal: that line is dropped with what else it
    writes there meanwhile. Errors come as exceptions.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)
