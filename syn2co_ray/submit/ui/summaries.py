"""A run in one line: how it stands, its newest figures, and its curves while it is under way."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import yaml

from ...report.page import duration
from ...report.published import value_at
from ...report.run_files import EvalRecord, Results, StepRecord
from ...report.table import TRAINED
from ...spec.errors import StorageError, first_line
from ...storage import FileInfo, Store, list_level, read_bytes
from ...storage.run_layout import METRICS_FOLDER, RESULTS_FILE, SPEC_FILE
from .storages import Seen

UNDER_WAY_S = 900.0
"""A run that has no results and wrote nothing for so long may have died: it is called silent."""
KINDS_WITHOUT_STEPS = frozenset({"evaluate", "embed", "export"})
"""Their page is the one that they leave."""
METRICS_BYTES_MAX = 200 * 2**20
"""More metrics than this are not read for a page."""


@dataclass(frozen=True)
class Summary:
    """What the list says of a run; texts are empty where nothing is known."""

    seen: Seen
    name: str
    framework: str
    backbone: str
    seed: str
    status: str
    note: str
    knn: str
    linear: str
    step: str
    written: str
    fault: str = ""

    @property
    def is_under_way(self) -> bool:
        return self.status == "under way"


def summary(seen: Seen, now: float | None = None) -> Summary:
    """A run's line, from its spec, results and newest measurement; few and small files are read."""
    store = seen.place.store
    try:
        files = {file.path: file for file in seen.place.files}
        spec = _spec(store) if SPEC_FILE in files else {}
        results = (
            Results.model_validate_json(read_bytes(store, RESULTS_FILE)) if RESULTS_FILE in files else None
        )
        metrics = list_level(store.child(METRICS_FOLDER))[0]
        shards = _shards(store) if spec.get("kind") in KINDS_WITHOUT_STEPS and results is None else []
        return _summary(seen, spec, results, metrics, shards, now or time.time())
    except (StorageError, ValueError) as error:
        words = first_line(error)
        return Summary(seen, seen.place.name, "", "", "", "unreadable", "", "", "", "", "", words)


def _summary(
    seen: Seen,
    spec: dict[str, Any],
    results: Results | None,
    metrics: list[FileInfo],
    shards: list[FileInfo],
    now: float,
) -> Summary:
    measured_ns = max((file.modified_ns or 0 for file in (*metrics, *shards)), default=0)
    written_s = max(seen.place.modified_ns, measured_ns) / 1e9
    told_ns = next((file.modified_ns or 0 for file in seen.place.files if file.path == RESULTS_FILE), 0)
    # A stopped run that was started again has results of before.
    goes_on = results is None or (results.status != "finished" and measured_ns > told_ns)
    age_s = max(0.0, now - written_s) if written_s else None
    knn, k, at_step = _newest_knn(seen.place.store, spec, results, metrics)
    trained = _trained(results)
    linear = trained.linear_top1_percent if trained else None
    return Summary(
        seen=seen,
        name=str(spec.get("name") or seen.place.name),
        framework=str(value_at(spec, "method.framework") or spec.get("kind") or ""),
        backbone=str(value_at(spec, "method.backbone") or ""),
        seed=str(spec.get("seed", "")),
        status=_status(results, goes_on, age_s),
        note=_note(results),
        knn=f"{knn:.2f}" if knn is not None else "",
        linear=f"{linear:.2f}" if linear is not None else "",
        step=f"k={k}" + (f", step {at_step:,}" if at_step is not None else "") if knn is not None else "",
        written=_ago(age_s) if age_s is not None else "",
    )


def _shards(store: Store) -> list[FileInfo]:
    """Files in the folders of a job that leaves no metrics: features, embeddings."""
    return [file for folder in list_level(store)[1] for file in list_level(store.child(folder))[0]]


def _status(results: Results | None, goes_on: bool, age_s: float | None) -> str:
    if goes_on and age_s is not None and age_s < UNDER_WAY_S:
        return "under way"
    return results.status if results is not None else "silent"


def _ago(age_s: float) -> str:
    return f"{age_s:.0f} s ago" if age_s < 60 else f"{duration(60 * (age_s // 60)).removesuffix(' 0 s')} ago"


def _note(results: Results | None) -> str:
    if results is None:
        return ""
    return "; ".join(results.warnings) or (results.bound.text if results.bound else "")


def _trained(results: Results | None) -> Any:
    rows = results.rows if results else []
    return next((row for row in rows if row.features.startswith(TRAINED)), None)


def _newest_knn(
    store: Store, spec: dict[str, Any], results: Results | None, metrics: list[FileInfo]
) -> tuple[float | None, int | None, int | None]:
    """Percent, k, and after which step; of the results, else of the newest measurement during training."""
    trained, at_step = _trained(results), None
    found = trained.knn_top1_percent if trained else {}
    evals = [file.path for file in metrics if file.path.startswith("eval-")]
    if not found and evals:
        record = EvalRecord.model_validate_json(read_bytes(store.child(METRICS_FOLDER), evals[-1]))
        found, at_step = record.knn, record.step
    wanted = value_at(spec, "evaluate.knn.neighbours")
    first = wanted[0] if isinstance(wanted, list) and wanted else None
    k = first if first in found else min(found, default=None)
    return (found[k], k, at_step) if k is not None else (None, None, None)


def _spec(store: Store) -> dict[str, Any]:
    try:
        values = yaml.safe_load(read_bytes(store, SPEC_FILE))
    except yaml.YAMLError as error:
        raise ValueError(f"{SPEC_FILE} is not YAML: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{SPEC_FILE} is no mapping")
    return values


def metrics_bytes(store: Store) -> int:
    """Size of a run's metrics, which its page is drawn from."""
    return sum(file.size_bytes for file in list_level(store.child(METRICS_FOLDER))[0])


@dataclass(frozen=True)
class LiveCurves:
    """Loss by step and k-NN by epoch, as far as they are published."""

    loss: list[tuple[float, float]]
    knn: list[tuple[float, float]]


def live_curves(store: Store, k: int | None = None) -> LiveCurves:
    """The curves of a run under way; nothing of a run whose metrics are too large to be read."""
    folder = store.child(METRICS_FOLDER)
    files = list_level(folder)[0]
    if sum(file.size_bytes for file in files) > METRICS_BYTES_MAX:
        return LiveCurves([], [])
    losses: dict[int, float] = {}
    knn = []
    for file in files:
        data = read_bytes(folder, file.path)
        if file.path.startswith("steps-"):
            for line in data.splitlines():
                record = StepRecord.model_construct(**json.loads(line))
                if isinstance(record.loss, int | float):
                    losses[record.step] = float(record.loss)
        elif file.path.startswith("eval-"):
            measured = EvalRecord.model_validate_json(data)
            chosen = k if k in measured.knn else min(measured.knn, default=None)
            if chosen is not None:
                knn.append((float(measured.step), measured.knn[chosen]))
    return LiveCurves(sorted((float(step), loss) for step, loss in losses.items()), sorted(knn))
