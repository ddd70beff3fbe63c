"""How many workers a cluster has room for. Imports no ray."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

UNITS = 10_000
"""Ray counts resources in steps of 1/10,000."""


@dataclass(frozen=True)
class Room:
    """What workers need of a cluster.

    Attributes:
        counts: worker counts allowed, ascending; each divides the global batch.
        cpus_each, gpus_each: of a worker.
        beside: CPUs and GPUs of each other process that the job runs at least.
    """

    counts: tuple[int, ...]
    cpus_each: float
    gpus_each: float
    beside: tuple[tuple[float, float], ...]

    def fitting(self, nodes: Sequence[dict[str, float]]) -> int | None:
        """Largest allowed count that fits on nodes with these resources; None when none does."""
        places = sum(self._places(node) for node in nodes)
        cpus = sum(node.get("CPU", 0.0) for node in nodes) - sum(cpus for cpus, _ in self.beside)
        gpus_beside = [gpus for _, gpus in self.beside]
        node_gpus = [node.get("GPU", 0.0) for node in nodes]
        for count in reversed(self.counts):
            enough = count * self.cpus_each <= cpus + 1 / UNITS
            if count <= places and enough and gpus_fit(node_gpus, [self.gpus_each] * count + gpus_beside):
                return count
        return None

    def _places(self, node: dict[str, float]) -> int:
        """Workers that fit on one node."""
        places = int(node.get("CPU", 0.0) / self.cpus_each + 1 / UNITS)
        while places and not gpus_fit([node.get("GPU", 0.0)], [self.gpus_each] * places):
            places -= 1
        return places


def view_threads(cpus_each: float) -> int:
    """Threads that make views in a worker with so many CPUs: all but the one that the step needs."""
    return max(1, int(cpus_each) - 1)


def gpus_fit(node_gpus: Iterable[float], requests: Iterable[float]) -> bool:
    """Whether processes with these GPU requests have room at once on nodes with so many GPUs.

    Ray takes a fraction from one GPU, and whole GPUs, which nobody shares, from one node. The largest request
    goes first, each to the first GPU that has room (first-fit decreasing): what does not fit then cannot be
    relied on, as Ray places processes in the order in which they come.
    """
    nodes = [_gpus_of_node(gpus) for gpus in node_gpus]
    asked = sorted((round(request * UNITS) for request in requests if request > 0), reverse=True)
    return all(any(_take(free, units) for free in nodes) for units in asked)


def whole_gpus(requests: Sequence[float]) -> int:
    """Fewest GPUs of one node that such processes fit on, by the same rules.

    Raises:
        ValueError: a request above 1 is not a whole number; no number of GPUs would do.
    """
    if any(request > 1 and request != int(request) for request in requests):
        raise ValueError(f"{list(requests)} holds a fraction above 1")
    count = int(sum(requests))
    while not gpus_fit([count], requests):
        count += 1
    return count


def _gpus_of_node(gpus: float) -> list[int]:
    """What each GPU of a node has to give."""
    whole, part = divmod(round(gpus * UNITS), UNITS)
    return [UNITS] * whole + ([part] if part else [])


def _take(free: list[int], units: int) -> bool:
    """Take a request from the GPUs of one node, if it has room; `free` is changed in place."""
    count, each = (units // UNITS, UNITS) if units >= UNITS and units % UNITS == 0 else (1, units)
    chosen = [number for number, left in enumerate(free) if left >= each][:count]
    if len(chosen) < count:
        return False
    for number in chosen:
        free[number] -= each
    return True
