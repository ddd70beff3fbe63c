"""`syn2co doctor`: looks at this machine, a store and a cluster, and says what to do about what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..spec.errors import ClusterError, StorageError, Syn2coError
from .dashboard import open_dashboard

SKEW_MAX_S = 60.0
"""Stores refuse requests whose clock is off by 15 minutes; logs and timeouts mislead long before."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        seen: what there is.
        remedy: what to do; empty when nothing has to be done.
        exit_code: of the command if this is a fault; 0 for what is well or only worth knowing.
    """

    what: str
    seen: str
    remedy: str = ""
    exit_code: int = 0

    @property
    def line(self) -> str:
        mark = "FAULT" if self.exit_code else "note " if self.remedy else "ok   "
        return f"{mark}  {self.what}: {self.seen}{f'; next: {self.remedy}' if self.remedy else ''}"


def examine(address: str | None, storage: str | None) -> Iterator[Finding]:
    """Findings about this machine, then about the store and the cluster that are named, as they are made."""
    from .doctor_machine import machine_findings

    yield from machine_findings()
    if storage is not None:
        from .doctor_store import store_findings

        yield from _caught(f"storage {storage}", lambda: store_findings(storage))
    if address is not None:
        from .doctor_cluster import cluster_findings

        yield from _caught(f"cluster {address}", lambda: cluster_findings(open_dashboard(address)))


def exit_code(findings: Iterable[Finding]) -> int:
    """That of the first fault: 3 for a store, 5 for everything else; 0 without one."""
    return next((finding.exit_code for finding in findings if finding.exit_code), 0)


def skew_finding(what: str, ahead_s: float, code: int) -> Finding:
    """Judges how far another clock is ahead of this machine's."""
    seen = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s >= 0 else 'behind'} this machine's"
    if abs(ahead_s) <= SKEW_MAX_S:
        return Finding(what, seen)
    return Finding(what, seen, "set both clocks by NTP (timedatectl set-ntp true)", code)


def _caught(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What is found until an error ends it; the error is a finding too."""
    try:
        yield from look()
    except Syn2coError as error:
        code = error.exit_code if isinstance(error, StorageError) else ClusterError.exit_code
        allowed = f" (allowed: {error.fault.allowed})" if error.fault.allowed else ""
        remedy = error.fault.next_step or "see above"
        yield Finding(what, f"{error.fault.where}: {error.fault.got}{allowed}", remedy, code)


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
