"""The run folder as files: their names, the shape of their lines, and how to read them.

A page must also come out of a run that is under way, was interrupted, or lost a file. So a file that is
absent is listed in `RunFiles.missing`, one that cannot be understood in `RunFiles.unreadable`, and the
rest is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from syn2co_ray.storage import Store, exists, list_files, read_bytes
from syn2co_ray.storage.run_layout import (
    METRICS_FOLDER,
    PROVENANCE_FILE,
    QUARANTINE_FILE,
    RESULTS_FILE,
    SAMPLES_FILE,
    SPEC_FILE,
    VIEWS_FILE,
)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Record(BaseModel):
    """Something a run wrote. What a later version adds is kept; a number that is not there is None."""

    model_config = ConfigDict(extra="allow", frozen=True, coerce_numbers_to_str=True)


class StepRecord(Record):
    """Metrics of one optimizer step."""

    step: int
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    gradient_norm: float | None = None
    """Global L2 norm before clipping."""
    images_per_s: float | None = None
    data_wait_share: float | None = None
    """Part of the step's time spent waiting for images, 0 to 1."""
    step_time_s: float | None = None
    skipped: bool = False
    """Loss or gradient was not finite: the step changed nothing."""
    stats: dict[str, float | None] = {}
    """The method's telemetry; `<name>/logit` and `<name>/mass` for each sort of negative."""


class EvalRecord(Record):
    """k-NN accuracy during training."""

    step: int
    epoch: float | None = None
    knn: dict[int, float] = {}
    """Top-1 percent by k."""


class ResultRow(Record):
    """Accuracy of one sort of features."""

    features: str
    knn_top1_percent: dict[int, float] = {}
    linear_top1_percent: float | None = None


class QuarantineTotal(Record):
    """Images that could not be read."""

    count: int
    share: float
    """Part of all images, 0 to 1."""


class Start(Record):
    """One start of the workers, and what it cost if there was one before it."""

    reason: str = ""
    """Empty for the first start of a command."""
    workers: int
    step: int
    replayed_steps: int = 0
    noticed_after_s: float = 0.0
    lost_s: float = 0.0


class LiveTotal(Record):
    """What a live source did, in the last start."""

    images_made: int
    images_shared: int = 0
    """Taken from other trials of the same search."""
    passes: int
    late_passes: int
    longest_wait_s: float


class BoundRecord(Record):
    """Which stage bounded the last start of a run (see `bound`)."""

    stage: str
    text: str


class Results(Record):
    """How a run ended and what came out."""

    status: str
    """finished or interrupted."""
    steps: int | None = None
    epochs: float | None = None
    rows: list[ResultRow] = []
    images_per_s: float | None = None
    data_wait_share: float | None = None
    checkpoint_share: float | None = None
    starts: list[Start] = []
    live: LiveTotal | None = None
    bound: BoundRecord | None = None
    wall_s: float | None = None
    startup_s: dict[str, float] = {}
    """Seconds before the first step, by what they went into."""
    quarantined: QuarantineTotal | None = None
    resumed_from_steps: list[int] = []
    warnings: list[str] = []


class DataRecord(Record):
    """A source that was trained or evaluated on."""

    uri: str
    fingerprint: str | None = None
    records: int | None = None


class TrainingRecord(Record):
    """What made the weights of a checkpoint: enough for a table, without the folder of the training."""

    uri: str
    """Folder of the training."""
    step: int | None = None
    """Of the checkpoint; None where the training's results do not say which was its last."""
    encoder: str = "online"
    finished: bool = False
    """The step is the training's last."""
    spec: dict[str, Any] = {}
    git_commit: str | None = None
    data: list[DataRecord] = []
    """Trained on."""
    evaluated_on: list[DataRecord] = []
    """As in the training's own provenance."""
    hours: float | None = None
    """What it cost up to that step (see `device_hours`)."""
    hours_of: str = ""
    """GPU-hours or CPU-hours."""


class WeightsRecord(Record):
    """The weights that a job measured."""

    source: str = ""
    digest: str = ""
    training: TrainingRecord | None = None
    """None for weights of a file or at random, and in folders of versions that did not record it."""


class Provenance(Record):
    """What made the run: code, libraries, hardware, data."""

    spec_hash: str | None = None
    code_version: str | None = None
    git_commit: str | None = None
    libraries: dict[str, str] = {}
    hardware: dict[str, Any] = {}
    data: list[DataRecord] = []
    """Of a training what it learned from, of an evaluation its bank and its evaluation images."""
    evaluated_on: list[DataRecord] = []
    """Of a training: the bank of k-NN and linear probe, the evaluation images last."""
    detection: list[DataRecord] = []
    """Of an evaluation with detectors: what they learned from, and what was searched."""
    weights: WeightsRecord | None = None
    """Of an evaluation: what was measured."""
    started_at: str | None = None


class QuarantineRecord(Record):
    """One image that could not be read, and which record was taken in its place."""

    key: str
    source: str | None = None
    reason: str | None = None
    replaced_by: str | None = None
    step: int | None = None


@dataclass
class RunFiles:
    """All that a run folder holds for its page."""

    spec_text: str | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    provenance: Provenance | None = None
    steps: list[StepRecord] = field(default_factory=list)
    """In rising order, each step once."""
    evals: list[EvalRecord] = field(default_factory=list)
    results: Results | None = None
    views_png: bytes | None = None
    samples_png: bytes | None = None
    quarantine: list[QuarantineRecord] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Names of files that are not there."""
    unreadable: list[str] = field(default_factory=list)
    """File (and line) and what is wrong with it."""


def load_run_files(store: Store) -> RunFiles:
    """Reads a run folder.

    Args:
        store: the run folder.

    Raises:
        StorageError: the folder cannot be reached.
    """
    run = RunFiles()
    _load_spec(run, _read(store, SPEC_FILE, run))
    run.provenance = _parsed(Provenance, _read(store, PROVENANCE_FILE, run), PROVENANCE_FILE, run)
    run.results = _parsed(Results, _read(store, RESULTS_FILE, run), RESULTS_FILE, run)
    run.quarantine = list(
        _parsed_lines(QuarantineRecord, _read(store, QUARANTINE_FILE, run), QUARANTINE_FILE, run)
    )
    run.views_png = _picture(run, VIEWS_FILE, _read(store, VIEWS_FILE, run))
    if exists(store, SAMPLES_FILE):  # only the training of a generator leaves one
        run.samples_png = _picture(run, SAMPLES_FILE, _read(store, SAMPLES_FILE, run))
    _load_metrics(run, store)
    return run


def _load_spec(run: RunFiles, data: bytes | None) -> None:
    if data is None:
        return
    run.spec_text = data.decode(errors="replace")
    try:
        spec = yaml.safe_load(run.spec_text)
    except yaml.YAMLError as error:
        run.unreadable.append(f"{SPEC_FILE}: not YAML ({error})")
        return
    if isinstance(spec, dict):
        run.spec = spec
    else:
        run.unreadable.append(f"{SPEC_FILE}: {type(spec).__name__} instead of a mapping")


def _picture(run: RunFiles, name: str, data: bytes | None) -> bytes | None:
    if data is not None and not data.startswith(_PNG_SIGNATURE):
        run.unreadable.append(f"{name}: not a PNG image")
        return None
    return data


def _load_metrics(run: RunFiles, store: Store) -> None:
    """A resumed run repeats steps: the part with the larger first step (the later attempt) wins."""
    by_step: dict[int, StepRecord] = {}
    for info in list_files(store.child(METRICS_FOLDER), missing_ok=True):
        name, path = info.path, f"{METRICS_FOLDER}/{info.path}"
        if name.startswith("steps-") and name.endswith(".jsonl"):
            # Files come sorted by name, so by first step: a later part overwrites.
            data = read_bytes(store, path)
            by_step.update((record.step, record) for record in _parsed_lines(StepRecord, data, path, run))
        elif name.startswith("eval-") and name.endswith(".json"):
            record = _parsed(EvalRecord, read_bytes(store, path), path, run)
            run.evals.extend([record] if record else [])
    run.steps = [by_step[step] for step in sorted(by_step)]
    run.evals.sort(key=lambda record: record.step)
    for kind, found in (("steps", run.steps), ("eval", run.evals)):
        if not found:
            run.missing.append(f"{METRICS_FOLDER}/{kind}-*")


def _read(store: Store, name: str, run: RunFiles) -> bytes | None:
    if exists(store, name):
        return read_bytes(store, name)
    run.missing.append(name)
    return None


RecordT = TypeVar("RecordT", bound=Record)


def _parsed(kind: type[RecordT], data: bytes | None, where: str, run: RunFiles) -> RecordT | None:
    if data is None:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        run.unreadable.append(f"{where}: {place + ': ' if place else ''}{first['msg']}")
        return None


def _parsed_lines(kind: type[RecordT], data: bytes | None, where: str, run: RunFiles) -> Iterator[RecordT]:
    for number, line in enumerate((data or b"").splitlines(), 1):
        if line.strip():
            record = _parsed(kind, line, f"{where}, line {number}", run)
            if record is not None:
                yield record
