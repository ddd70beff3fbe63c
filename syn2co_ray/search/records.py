"""What is known of each trial, one JSON file each: all that a search needs to go on after its driver died."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..spec.points import Point
from ..storage import Store, exists, list_files, publish_bytes, read_bytes
from .trials import Trial

RECORDS_FOLDER, CLOCK_FILE = "records", "clock.json"
Status = Literal["running", "interrupted", "paused", "stopped", "finished", "failed"]
"""interrupted: by Ctrl-C or the budget, goes on with the next command; paused: waits for the others of its
population; stopped: early, by the scheduler."""
ENDED: tuple[Status, ...] = ("stopped", "finished", "failed")


@dataclass(frozen=True)
class Evaluation:
    """The metric after so many epochs, and when it came (Unix seconds)."""

    epoch: int
    value: float
    at_unix_s: float


@dataclass(frozen=True)
class Takeover:
    """A trial of a population has gone on from another one's checkpoint.

    Attributes:
        epoch: epochs that both had trained.
        donor, donor_run: number of the other trial and name of its run folder then.
        run: the trial's own run folder until then.
        before, after: the trial's own values before and after.
    """

    epoch: int
    donor: int
    donor_run: str
    run: str
    before: Point
    after: Point


@dataclass
class Record:
    """A trial and what became of it.

    Attributes:
        number, point_number, point: as of the `Trial`; in a population the point that it has now.
        seed: of its training.
        run: name of its run folder, below `trials/`; in a population that of its newest point.
        status: see `Status`.
        evaluations: the metric during training, in the order of their epochs.
        value: the (first) metric at its end; of a stopped trial the last evaluation.
        values: all metrics of a finished trial, by name, where the search has several.
        failures: how often it failed.
        error: the last failure in words.
        wall_s, gpu_hours: over all its starts.
        paused_after_epochs: of a population, where it last waited for the others.
        passed_epochs: of scheduler asha_promotion, the last rung that it was let past.
        lineage: what it took over from others of its population, the first first.
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
    paused_after_epochs: int = 0
    lineage: list[Takeover] = field(default_factory=list)
    values: dict[str, float | None] = field(default_factory=dict)
    passed_epochs: int = 0

    @property
    def since_epoch(self) -> int:
        """Epochs after which it got its present point."""
        return self.lineage[-1].epoch if self.lineage else 0

    def value_after(self, epoch: int) -> float | None:
        """The metric after so many epochs, or the last one before; None without any."""
        found = [evaluation.value for evaluation in self.evaluations if evaluation.epoch <= epoch]
        return found[-1] if found else None

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
    lineage = [Takeover(**takeover) for takeover in values.pop("lineage", [])]
    return Record(**values, evaluations=evaluations, lineage=lineage)
