"""Connecting to Ray: the cluster that RAY_ADDRESS names, or one on this machine for the time of a run."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

from .head_watch import HeadWatch


@dataclass(frozen=True)
class Cluster:
    """What a connected cluster can give."""

    cpus: float
    node_gpus: tuple[float, ...]
    """GPUs of each node."""
    is_local: bool

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
        with watch:
            yield Cluster(
                sum(node.get("CPU", 0.0) for node in nodes),
                tuple(node.get("GPU", 0.0) for node in nodes),
                not address,
            )
    except ray.exceptions.RayError as error:
        if watch.answers():
            raise
        raise watch.lost(type(error).__name__) from error
    finally:
        if not already:
            ray.shutdown()


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
