"""The part `detection` of an evaluation: both networks, one after the other, each resumable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

from ..spec.errors import RunInterrupted
from ..spec.evaluation import EvaluateJobSpec
from ..spec.identity import spec_hash
from ..storage import publish_bytes, read_bytes
from ..storage.run_layout import DETECTION_SHEET_FILE, PROVENANCE_FILE
from ..train.run_folder import RunFolder
from .progress import PLAIN_LINE_EVERY_S, Progress, duration

DETECTION_FOLDER = "detection"


def run_detection(
    job: EvaluateJobSpec, run: RunFolder, progress: Progress, should_stop: Callable[[], bool]
) -> tuple[dict[str, Any], list[str]]:
    """Train and measure a detector on the weights, and on the same backbone at random where asked for.

    Returns:
        Figures as plain values, and warnings; the sheet is in the run's folder.

    Raises:
        RunInterrupted: asked to stop, after a checkpoint.
        Syn2coError: annotations, images or a backbone that cannot be used.
    """
    import torch

    from ..evaluate.detection.masks import coco_library
    from ..evaluate.detection.measuring import measure_detector, sheet_jpeg
    from ..evaluate.detection.sets import progress_lines, read_sets
    from ..evaluate.detection.training import Stopped
    from ..evaluate.protocols import RANDOM, TRAINED
    from ..evaluate.weights import load_backbone, random_backbone

    spec = job.detection
    assert spec is not None
    coco_library()
    train, held_out, warnings = read_sets(spec, job.object_store)
    progress_lines(progress.log, (train, held_out))
    for warning in warnings:
        progress.log(f"warning: {warning}")
    weights = job.weights.model_copy(update={"image_size": spec.image_size})
    source = load_backbone(weights, job.object_store)
    networks = {RANDOM if job.weights.random_seed is not None else TRAINED: source}
    if job.baselines and RANDOM not in networks:
        networks[RANDOM] = random_backbone(source, job.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    annotated = [
        {"uri": s.uri, "fingerprint": s.fingerprint, "records": len(s.images)} for s in (train, held_out)
    ]
    begun = run.read_json(PROVENANCE_FILE)
    if begun is not None and "detection" not in begun:
        run.write_json(PROVENANCE_FILE, {**begun, "detection": annotated})
    rows, shown = [], {}
    for name, loaded in networks.items():
        place = run.store.child(DETECTION_FOLDER, name.replace(" ", "-"))
        made_of = (spec_hash(job), loaded.digest, train.fingerprint, held_out.fingerprint)
        identity = hashlib.sha256(" ".join(made_of).encode()).hexdigest()
        try:
            measured = measure_detector(
                *(name, loaded.network, (train, held_out), spec, job.seed, device, place, identity),
                _Shown(progress, name),
                should_stop,
            )
        except Stopped:
            raise RunInterrupted(
                run.store.uri,
                f"stopped while a detector on the {name} was made",
                "",
                "its checkpoint is whole: run the same command to resume",
            ) from None
        rows.append(measured.row)
        shown[name] = measured.shown
        progress.log(f"detection, {name}: {_headline(measured.row)}")
    publish_bytes(run.store, DETECTION_SHEET_FILE, sheet_jpeg(held_out, spec, shown))
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


class _Shown:
    """A line that replaces itself in a terminal, one now and then elsewhere."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.name, self.said_at = progress, name, -PLAIN_LINE_EVERY_S

    def __call__(self, now: Any) -> None:
        done = now.step == now.total
        left = "" if done or not now.images_per_s else f"  ETA {duration(self._left_s(now))}"
        line = (
            f"detection, {self.name}: step {now.step}/{now.total}  loss {now.loss:.4f}  "
            f"{now.images_per_s:.1f} images/s{left}"
        )
        at = time.monotonic()
        if not self.progress.replace(line) and (done or at - self.said_at >= PLAIN_LINE_EVERY_S):
            self.said_at = at
            self.progress.log(line)

    def _left_s(self, now: Any) -> float:
        return float((now.total - now.step) * now.images_per_step / now.images_per_s)


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
