"""How many workers a cluster has room for. Imports no ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """What workers need of a cluster.

    Attributes:
        counts: worker counts allowed, ascending; each divides the global batch.
        cpus_each, gpus_each: of a worker.
        cpus_beside, gpus_beside: of everything else the job runs at least.
    """

    counts: tuple[int, ...]
    cpus_each: float
    gpus_each: float
    cpus_beside: float
    gpus_beside: float

    def fitting(self, nodes: Sequence[dict[str, float]]) -> int | None:
        """Largest allowed count that fits on nodes with these resources; None when none does."""
        places = sum(self._places(node) for node in nodes)
        cpus = sum(node.get("CPU", 0.0) for node in nodes) - self.cpus_beside
        gpus = sum(node.get("GPU", 0.0) for node in nodes) - self.gpus_beside
        for count in reversed(self.counts):
            # Ray counts in steps of 1/10,000.
            enough = count * self.cpus_each <= cpus + 1e-4 and count * self.gpus_each <= gpus + 1e-4
            if count <= places and enough:
                return count
        return None

    def _places(self, node: dict[str, float]) -> int:
        """Workers that fit on one node."""
        places = node.get("CPU", 0.0) / self.cpus_each
        if self.gpus_each:
            places = min(places, node.get("GPU", 0.0) / self.gpus_each)
        return int(places + 1e-4)
