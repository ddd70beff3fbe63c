"""`syn2co run` for `kind: export`: a backbone in every form asked for, verified, then published."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from ..report.model_card import ExportedModel, Training, model_card
from ..report.run_files import Provenance, Results
from ..spec.export import ExportSpec
from ..spec.identity import resolved, run_name
from ..storage import exists, publish_bytes, publish_file, read_bytes
from ..storage.run_layout import CARD_FILE, PROVENANCE_FILE, RESULTS_FILE
from ..train.run_folder import RunFolder
from .progress import Progress
from .provenance import provenance
from .weights_folder import weights_and_folder


def run_export(job: ExportSpec, console: Console) -> dict[str, Any]:
    """Write what is missing; returns the content of results.json.

    Runs in this process, on the CPU, without Ray.

    Raises:
        CheckpointError: weights that do not fit, or the folder holds those of another step.
        SpecError: a form that this backbone or this installation cannot give.
        Syn2coError: a form whose features differ from the source's.
    """
    with Progress(console) as progress:
        progress.log(f"export {run_name(job)}")
        source, run = weights_and_folder(job, progress.log)
        finished = run.read_json(RESULTS_FILE)
        if finished is None:
            finished = _export(job, source, run, progress)
        for form, about in finished["forms"].items():
            progress.log(
                f"{form}: {about['bytes'] / 1e6:,.1f} MB, largest difference {about['difference_max']:.3g} "
                f"({about['error']:.2g} of the largest feature)"
            )
        progress.log(f"exported: {run.store.uri}")
        return finished


def _export(job: ExportSpec, source: Any, run: RunFolder, progress: Progress) -> dict[str, Any]:
    from ..evaluate.export import check_forms, verify, write_form

    check_forms(job.formats, source)
    weights = {"source": source.source, "digest": source.digest, "notes": list(source.notes)}
    run.write_json(PROVENANCE_FILE, {**provenance(job, ()), "weights": weights})
    forms: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        for form in job.formats:
            started, folder = time.perf_counter(), Path(place) / form
            write_form(form, source, folder)
            found = verify(form, source, folder, job.error_max)
            sizes = [path.stat().st_size for path in folder.iterdir()]
            forms[form] = {
                "difference_max": found.difference_max,
                "feature_max": found.feature_max,
                "error": found.error,
                "bytes": sum(sizes),
            }
            progress.log(f"{form}: written and verified in {time.perf_counter() - started:.1f} s")
        card = model_card(_about(job, source, forms), _training(source)).encode()
        for form in job.formats:
            for path in sorted((Path(place) / form).iterdir()):
                publish_file(run.store.child(form), path.name, path)
    if "timm" in job.formats:
        publish_bytes(run.store.child("timm"), CARD_FILE, card)
    publish_bytes(run.store, CARD_FILE, card)
    # Last: a folder without it is not finished.
    results = {"status": "finished", "digest": source.digest, "forms": forms}
    run.write_json(RESULTS_FILE, results)
    return results


def _about(job: ExportSpec, source: Any, forms: dict[str, dict[str, Any]]) -> ExportedModel:
    from ..methods.backbones import num_features
    from ..methods.normalise import MEAN, STD

    return ExportedModel(
        name=job.name,
        backbone=source.architecture.backbone.partition(".")[0],
        image_size=source.image_size,
        num_features=num_features(source.network),
        parameters=sum(parameter.numel() for parameter in source.network.parameters()),
        source=source.source,
        digest=source.digest,
        mean=MEAN,
        std=STD,
        notes=source.notes,
        licence=job.licence,
        errors={form: about["error"] for form, about in forms.items()},
    )


def _training(source: Any) -> Training | None:
    """What the run's own folder says; figures only if they were measured on these weights."""
    if source.run is None:
        return None
    made: dict[str, Any] = {}
    if exists(source.run, PROVENANCE_FILE):
        made = json.loads(read_bytes(source.run, PROVENANCE_FILE))
        made["libraries"] = {name: version for name, version in made["libraries"].items() if version}
    results, why = None, "the run has not finished"
    if exists(source.run, RESULTS_FILE):
        results = Results.model_validate_json(read_bytes(source.run, RESULTS_FILE))
        if results.status == "finished" and results.steps != source.step:
            why = f"the run's are of step {results.steps}, these weights of step {source.step}"
        elif results.status == "finished":
            why = "" if source.encoder == "online" else "the run's are of the online encoder"
    measured = results if not why else None
    return Training(resolved(source.job), Provenance.model_validate(made), measured, why)
