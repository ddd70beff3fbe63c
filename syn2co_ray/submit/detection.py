"""The part `detection` of an evaluation: both networks, one after the other, each a run of workers on Ray.

detection/<network>/checkpoints/        the newest one
detection/<network>/measured.json       once it is done
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..spec.errors import RunInterrupted
from ..spec.evaluation import EvaluateJobSpec
from ..spec.identity import spec_hash
from ..storage import Store, exists, publish_bytes, read_bytes
from ..storage.run_layout import DETECTION_SHEET_FILE, PROVENANCE_FILE
from ..train.run_folder import RunFolder
from ..train.workers_run import Workers, WorkersRun
from .cluster import Cluster, connected
from .detection_workers import DetectionTask, choose_detection_workers, room_for_detection, training_name
from .entry import detection_worker
from .progress import Progress
from .stop_signals import StopSignals
from .watched import watched

DETECTION_FOLDER = "detection"
MEASURED_FILE = "measured.json"
"""In the folder of a network: its figures, and what it found in the images of the sheet."""
RESIZE_EVERY_S = 60.0
"""Shortest time between a start of the workers and one with more of them."""


def run_detection(
    job: EvaluateJobSpec, run: RunFolder, progress: Progress, stop: StopSignals, *, debug: bool
) -> tuple[dict[str, Any], list[str]]:
    """Train and measure a detector on the weights, and on the same backbone at random where asked for.

    Args:
        job: with a section `detection`.
        run: folder of the evaluation.
        progress: gets lines, and what the workers do.
        stop: asked meanwhile.
        debug: see `connected`.

    Returns:
        Figures as plain values, and warnings; the sheet is in the run's folder.

    Raises:
        RunInterrupted: asked to stop, after a checkpoint.
        Syn2coError: annotations, images or a backbone that cannot be used.
    """
    from ..evaluate.detection.masks import coco_library
    from ..evaluate.detection.measuring import Measured, sheet_jpeg
    from ..evaluate.detection.sets import progress_lines, read_sets

    assert job.detection is not None
    coco_library()
    *sets, warnings = read_sets(job.detection, job.object_store)
    progress_lines(progress.log, sets)
    for warning in warnings:
        progress.log(f"warning: {warning}")
    _note_sets(run, sets)
    networks = _networks(job)
    wanted = {name: _identity(job, digest, sets) for name, digest in networks.items()}
    found = {name: _measured_before(run, name, identity) for name, identity in wanted.items()}
    if None in found.values():
        with connected(debug=debug) as cluster:
            stop.listen()
            training = _Training(job, run, sets, cluster, progress, stop)
            for name in [name for name, one in found.items() if one is None]:
                found[name] = training.measured(name, name != next(iter(networks)), wanted[name])
    measured = {name: Measured.of_json(one) for name, one in found.items() if one is not None}
    rows = [one.row for one in measured.values()]
    shown = {name: one.shown for name, one in measured.items()}
    train, held_out = sets
    publish_bytes(run.store, DETECTION_SHEET_FILE, sheet_jpeg(held_out, job.detection, shown))
    warnings += list(dict.fromkeys(_unreadable(rows)))
    return {
        "rows": rows,
        "categories": list(held_out.categories),
        "images": {"train": len(train.images), "eval": len(held_out.images)},
        "boxes": {"train": train.boxes, "eval": held_out.boxes},
    }, warnings


def detection_pictures(run: RunFolder) -> list[Any]:
    """`Picture`s for the page of an evaluation, from its folder."""
    # It brings matplotlib, which takes seconds to import.
    from ..report.evaluation_page import Picture

    caption = "Truth first; of what each network found, scores of 0.5 and more."
    return [Picture("What was found", caption, read_bytes(run.store, DETECTION_SHEET_FILE))]


class _Training:
    """Trains detectors on a cluster, one network after the other."""

    def __init__(
        self,
        job: EvaluateJobSpec,
        run: RunFolder,
        sets: list[Any],
        cluster: Cluster,
        progress: Progress,
        stop: StopSignals,
    ) -> None:
        import ray

        assert job.detection is not None
        self.job, self.spec, self.run = job, job.detection, run
        self.progress, self.stop = progress, stop
        self.workers = choose_detection_workers(self.spec, cluster)
        self.boxed = [ray.put(tuple(sets))]

    def measured(self, name: str, is_random: bool, identity: str) -> dict[str, Any]:
        """Figures of one network and what it found, as plain values; also left in its folder."""
        place = _place(self.run, name)
        if self.stop.asked.is_set():
            raise self._stopped(name)
        self.progress.begin_run()
        self.progress.log(f"detection, {name}: {self.workers} worker(s)")

        def workers(board: Any) -> Workers:
            task = DetectionTask(self.job, name, is_random, place, identity, board, self.boxed)
            room = room_for_detection(self.spec)
            return Workers(detection_worker, task, room, self.spec.failures_max, RESIZE_EVERY_S)

        training = WorkersRun(training_name(self.job, name), DETECTION_FOLDER, workers)
        training.start()
        try:
            watched(training, self.progress, self.stop.asked)
            answer = training.result()
        finally:
            training.end()
        if "stopped" in answer:
            raise self._stopped(name)
        made = {**answer, "identity": identity}
        publish_bytes(place, MEASURED_FILE, json.dumps(made, indent=1).encode())
        self.progress.log(f"detection, {name}: {_headline(made['row'])}")
        return made

    def _stopped(self, name: str) -> RunInterrupted:
        return RunInterrupted(
            self.run.store.uri,
            f"stopped while a detector on the {name} was made",
            "",
            "its checkpoint is whole: run the same command to resume",
        )


def _networks(job: EvaluateJobSpec) -> dict[str, str]:
    """Name and digest of each network, the weights' first."""
    from ..evaluate.detection.weights import detection_backbone
    from ..evaluate.protocols import RANDOM, TRAINED

    source = detection_backbone(job)
    if job.weights.random_seed is not None:
        return {RANDOM: source.digest}
    networks = {TRAINED: source.digest}
    if job.baselines:
        networks[RANDOM] = detection_backbone(job, is_random=True).digest
    return networks


def _identity(job: EvaluateJobSpec, digest: str, sets: list[Any]) -> str:
    made_of = (spec_hash(job), digest, *(images.fingerprint for images in sets))
    return hashlib.sha256(" ".join(made_of).encode()).hexdigest()


def _place(run: RunFolder, name: str) -> Store:
    return run.store.child(DETECTION_FOLDER, name.replace(" ", "-"))


def _measured_before(run: RunFolder, name: str, identity: str) -> dict[str, Any] | None:
    place = _place(run, name)
    if not exists(place, MEASURED_FILE):
        return None
    made: dict[str, Any] = json.loads(read_bytes(place, MEASURED_FILE))
    return made if made["identity"] == identity else None


def _note_sets(run: RunFolder, sets: list[Any]) -> None:
    """Say in the provenance what was learned from and searched."""
    begun = run.read_json(PROVENANCE_FILE)
    if begun is not None and "detection" not in begun:
        annotated = [
            {"uri": one.uri, "fingerprint": one.fingerprint, "records": len(one.images)} for one in sets
        ]
        run.write_json(PROVENANCE_FILE, {**begun, "detection": annotated})


def _headline(row: dict[str, Any]) -> str:
    parts = []
    for kind in ("box", "mask"):
        if kind in row:
            figures = ", ".join(
                f"{name.upper()} {_figure(row[kind][name])}" for name in ("ap", "ap50", "ap75")
            )
            parts.append(f"{kind} {figures}")
    return "; ".join(parts)


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _unreadable(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"detection.{part}: {len(found)} images cannot be used: left out "
        f"(first: {json.dumps(next(iter(found.items())))})"
        for row in rows
        for part, found in row["unreadable"].items()
        if found
    ]
