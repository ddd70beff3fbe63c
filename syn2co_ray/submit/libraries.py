"""Libraries that this package asks for: those of every job, and those of the extras that some jobs need."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import requires

from packaging.requirements import Requirement

from ..spec.embed import EmbedSpec
from ..spec.evaluation import EvaluateJobSpec
from ..spec.export import ExportSpec
from ..spec.job import JobSpec, TrainingSpec, steps_of
from ..spec.search import SearchSpec
from .probe import PACKAGE

TRACKERS = {"mlflow": "mlflow-skinny"}
"""Packages of trackers that are not called like their module."""
AZURE = ("azure-identity", "azure-storage-blob")
ONNX = ("onnx", "onnxruntime", "onnxscript")


def extras_of(job: JobSpec) -> frozenset[str]:
    """Names of the packages beyond everybody's that a job cannot do without."""
    names: set[str] = set()
    for step in (job.training,) if isinstance(job, SearchSpec) else steps_of(job):
        if isinstance(step, TrainingSpec) and step.track is not None:
            names.update(TRACKERS.get(library, library) for library in step.track.libraries)
        elif isinstance(step, EvaluateJobSpec) and step.detection is not None:
            names.add("pycocotools")
        elif isinstance(step, EmbedSpec) and (step.near_duplicates or step.neighbours):
            names.add("faiss-cpu")
        elif isinstance(step, ExportSpec) and "onnx" in step.formats:
            names.update(ONNX)
        written = (getattr(step, "storage", ""), getattr(step, "into", ""))
        if any(place.startswith("az://") for place in written):
            names.update(AZURE)
    return frozenset(names)


def needed_libraries(extras: Collection[str] = ()) -> list[Requirement]:
    """What this package needs, and those of its extras that are named.

    Raises:
        PackageNotFoundError: it runs from a folder, so that nothing is known about its libraries.
    """
    return [
        wanted
        for wanted in map(Requirement, requires(PACKAGE) or ())
        if wanted.name in extras or wanted.marker is None or wanted.marker.evaluate({"extra": ""})
    ]
