"""What is known of each trial, one JSON file each: all that a search needs to go on after its driver died."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..spec.points import Point
from ..storage import Store, exists, list_files, publish_bytes, read_bytes
from .trials import Trial

RECORDS_FOLDER, CLOCK_FILE = "records", "clock.json"
Status = Literal["running", "interrupted", "stopped", "finished", "failed"]
"""interrupted: by Ctrl-C or the budget, goes on with the next command; stopped: early, by the scheduler."""
ENDED: tuple[Status, ...] = ("stopped", "finished", "failed")


@dataclass(frozen=True)
class Evaluation:
    """The metric after so many epochs, and when it came (Unix seconds)."""

    epoch: int
    value: float
    at_unix_s: float


@dataclass
class Record:
    """A trial and what became of it.

    Attributes:
        number, point_number, point: as of the `Trial`.
        seed: of its training.
        run: name of its run folder, below `trials/`.
        status: see `Status`.
        evaluations: the metric during training, in the order of their epochs.
        value: the metric at its end; of a stopped trial the last evaluation.
        failures: how often it failed.
        error: the last failure in words.
        wall_s, gpu_hours: over all its starts.
    """

    number: int
    point_number: int
    point: Point
    seed: int
    run: str
    status: Status = "running"
    evaluations: list[Evaluation] = field(default_factory=list)
    value: float | None = None
    failures: int = 0
    error: str = ""
    wall_s: float = 0.0
    gpu_hours: float = 0.0

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    def add(self, evaluations: list[Evaluation]) -> list[Evaluation]:
        """Take what is new, and return it; a resumed run measures some epochs again."""
        known = {evaluation.epoch for evaluation in self.evaluations}
        new = [evaluation for evaluation in evaluations if evaluation.epoch not in known]
        self.evaluations = sorted([*self.evaluations, *new], key=lambda evaluation: evaluation.epoch)
        return new


def record_of(trial: Trial, run: str) -> Record:
    """The record of a trial that is about to start."""
    return Record(trial.number, trial.point_number, trial.point, trial.job.seed, run)


class Records:
    """The records of a search, in its folder; a file is whole or absent."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def load(self) -> dict[int, Record]:
        """All records by trial number."""
        folder = self.store.child(RECORDS_FOLDER)
        found = [
            _from_values(json.loads(read_bytes(folder, info.path)))
            for info in list_files(folder, recursive=False, missing_ok=True)
            if info.path.endswith(".json")
        ]
        return {record.number: record for record in sorted(found, key=lambda record: record.number)}

    def save(self, record: Record) -> None:
        data = json.dumps(asdict(record), indent=1).encode()
        publish_bytes(self.store.child(RECORDS_FOLDER), f"{record.number:06d}.json", data)

    def wall_s(self) -> float:
        """Seconds that earlier commands have worked on the search."""
        if not exists(self.store, CLOCK_FILE):
            return 0.0
        return float(json.loads(read_bytes(self.store, CLOCK_FILE))["wall_s"])

    def save_wall_s(self, wall_s: float) -> None:
        publish_bytes(self.store, CLOCK_FILE, json.dumps({"wall_s": wall_s}).encode())


def _from_values(values: dict[str, Any]) -> Record:
    evaluations = [Evaluation(**evaluation) for evaluation in values.pop("evaluations")]
    return Record(**values, evaluations=evaluations)
