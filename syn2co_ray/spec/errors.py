"""Every error a user can meet, as one small tree.

    Syn2coError            exit code 4 (a run failed)
    ├── SpecError          exit code 2 (the job file is wrong; carries all its faults)
    ├── DataError          exit code 3 (images, labels, indexes)
    ├── StorageError       exit code 3 (buckets, credentials, paths)
    ├── ResourceError      exit code 5 (cannot be scheduled on this cluster)
    ├── ClusterError       exit code 5 (no answer from the cluster, no right to use it, other versions there)
    ├── CheckpointError    exit code 4 (truncated, of another spec, corrupt)
    ├── TrainingError      exit code 4 (non-finite loss, failing workers)
    └── RunInterrupted     exit code 130 (stopped on request; what is published is whole)

An error says four things: where (dotted key or object path), what was got, what is allowed, what to
do next. Errors cross process borders inside Ray, so each one survives pickling with its fields.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, in the four parts every message has."""

    where: str
    got: str
    allowed: str = ""
    next_step: str = ""
    line: int | None = None
    file: str = ""
    """Where `line` is, when not in the file that is being checked (a base of it)."""

    def render(self, file: str = "") -> str:
        file = self.file or file
        place = f"{file}:{self.line}: " if file and self.line else ""
        text = f"{place}{self.where}: {self.got}"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        if self.next_step:
            text += f"; next: {self.next_step}"
        return text


class Syn2coError(Exception):
    """A failure a user can act on; the CLI prints it without a traceback."""

    exit_code = 4

    def __init__(self, where: str, got: str, allowed: str = "", next_step: str = "") -> None:
        self.fault = Fault(where, got, allowed, next_step)
        super().__init__(self.fault.render())

    def __reduce__(self):
        fault = self.fault
        return type(self), (fault.where, fault.got, fault.allowed, fault.next_step)


class SpecError(Syn2coError):
    """All faults of one job file, or of several, found before any cluster time is spent."""

    exit_code = 2

    def __init__(self, faults: list[Fault], file: str = "") -> None:
        self.faults = list(faults)
        self.file = file
        lines = [fault.render(file) for fault in self.faults]
        count = f"{len(lines)} fault{'s' if len(lines) != 1 else ''}"
        Exception.__init__(self, f"{file or 'job'}: {count}\n  " + "\n  ".join(lines))
        self.fault = self.faults[0]

    def __reduce__(self):
        return type(self), (self.faults, self.file)


class DataError(Syn2coError):
    """A source that cannot be read as images: no column, mixed schemas, too many unreadable."""

    exit_code = 3


class StorageError(Syn2coError):
    """A bucket, prefix or path that cannot be reached, listed, read or written."""

    exit_code = 3


class ResourceError(Syn2coError):
    """A job that the cluster at hand can never schedule."""

    exit_code = 5


class ClusterError(Syn2coError):
    """A Ray cluster that does not answer, refuses the token, or does not have what a job needs to run."""

    exit_code = 5


class CheckpointError(Syn2coError):
    """A checkpoint that is truncated, corrupt, or belongs to another spec."""


class RunInterrupted(Syn2coError):
    """The run was asked to stop; where workers ran, a whole checkpoint was published first."""

    exit_code = 130


class TrainingError(Syn2coError):
    """A run that cannot go on: the loss stays non-finite, a worker keeps failing, a rank hangs."""


def first_line(error: BaseException) -> str:
    """What an error of others says, on one line; its type's name where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def error_to_json(error: Syn2coError) -> str:
    """An error as text, for channels that would keep only a traceback of it (Ray Data's workers)."""
    if isinstance(error, SpecError):
        return json.dumps(["SpecError", [asdict(fault) for fault in error.faults], error.file])
    fault = error.fault
    return json.dumps([type(error).__name__, fault.where, fault.got, fault.allowed, fault.next_step])


def error_from_json(text: str) -> Syn2coError:
    """The error behind `error_to_json`'s text."""
    name, *parts = json.loads(text)
    if name == "SpecError":
        faults, file = parts
        return SpecError([Fault(**fault) for fault in faults], file)
    classes = {kind.__name__: kind for kind in Syn2coError.__subclasses__()}
    return classes.get(name, Syn2coError)(*parts)
