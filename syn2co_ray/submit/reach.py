"""Which of a job's places a node of the cluster can use: its storage, and what must be there."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator

from pyarrow import fs
from pydantic import BaseModel

from ..data.place import PROBE_MARK
from ..data.prepare import MARKER as PREPARED
from ..spec.detection import AnnotatedImagesSpec
from ..spec.embed import EmbedSpec
from ..spec.errors import StorageError, Syn2coError, error_to_json
from ..spec.evaluation import EvaluateJobSpec, LandmarksSpec
from ..spec.generate import GenerateSpec
from ..spec.job import JobSpec, SingleJobSpec, TrainGeneratorSpec, TrainingSpec, steps_of
from ..spec.load import load_text
from ..spec.search import SearchSpec
from ..spec.source import ObjectStoreSpec, SourceSpec
from ..spec.train import StartSpec
from ..spec.video import VideoSegmentationSpec
from ..spec.weights import WeightsSpec
from ..storage import Store, delete, exists, open_store, publish_bytes, read_bytes

URIS_OF: dict[type[BaseModel], tuple[str, ...]] = {
    SourceSpec: ("uri",),
    AnnotatedImagesSpec: ("annotations", "images", "image_set", "mask_folder"),
    VideoSegmentationSpec: ("uri",),
    LandmarksSpec: ("ground_truth",),
    WeightsSpec: ("run", "file"),
    StartSpec: ("run",),
}
"""Keys of sections that name what a job reads."""


def leave_mark(job_text: str) -> tuple[str, list[str]]:
    """Write an object into every place that the job writes to; returns its name and what went wrong."""
    mark = f"{PROBE_MARK}{uuid.uuid4().hex}"
    return mark, _errors(lambda store: publish_bytes(store, mark, b"1"), job_text)


def remove_mark(job_text: str, mark: str) -> None:
    """Take it away again, where it can be."""
    _errors(lambda store: delete(store, mark), job_text)


def reach_from_node(job_text: str, mark: str) -> list[str]:
    """What this node cannot do, as JSON of errors: see what the head wrote, write, find the sources."""
    own = f"{mark}-{uuid.uuid4().hex}"

    def both_ways(store: Store) -> None:
        try:
            read_bytes(store, mark)
        except StorageError as error:
            raise StorageError(
                store.uri,
                f"{socket.gethostname()} does not see what the head has written there: {error.fault.got}",
                "a bucket, or a path that all nodes share",
                "set storage (and into) to such a place",
            ) from None
        publish_bytes(store, own, b"1")
        delete(store, own)

    errors = _errors(both_ways, job_text)
    return errors if errors else _missing(load_text(job_text))


def written_places(job: JobSpec) -> list[Store]:
    """Where the job's steps write, each once; data sets that they prepare first are made by the driver."""
    places: dict[str, Store] = {}
    for step in _steps(job):
        uris = [step.into] if isinstance(step, GenerateSpec | TrainGeneratorSpec) else []
        uris += _prepared_places(step)
        uris += [] if isinstance(step, GenerateSpec) else [step.storage]
        for uri in uris:
            store = open_store(uri, step.object_store)
            places.setdefault(store.uri, store)
    return list(places.values())


def places_needed(job: JobSpec) -> Iterator[tuple[str, ObjectStoreSpec]]:
    """URIs of what must be there before the job starts: none that it writes itself."""
    made: list[str] = []
    for step in _steps(job):
        if isinstance(step, GenerateSpec):
            made.append(step.into)
        made += _prepared_places(step)
        for uri in _places_read(step):
            if not any(_is_below(uri, place) for place in made):
                yield uri, step.object_store
        # Runs that later steps begin with.
        made += [] if isinstance(step, GenerateSpec) else [step.storage]


def _steps(job: JobSpec) -> tuple[SingleJobSpec, ...]:
    return (job.training,) if isinstance(job, SearchSpec) else steps_of(job)


def _prepared_places(step: SingleJobSpec) -> list[str]:
    """URIs of the data sets that a step writes before it begins."""
    if isinstance(step, TrainingSpec | EvaluateJobSpec) and step.data is not None:
        return [prepared.into for prepared in step.data.prepare]
    return [prepared.into for prepared in step.prepare] if isinstance(step, EmbedSpec) else []


def _places_read(section: object) -> Iterator[str]:
    """URIs that the sections of a spec name, wherever they are."""
    if isinstance(section, BaseModel):
        uris = next((names for kind, names in URIS_OF.items() if isinstance(section, kind)), ())
        yield from (uri for uri in (getattr(section, name) for name in uris) if uri is not None)
        for name in type(section).model_fields:
            yield from _places_read(getattr(section, name))
    elif isinstance(section, list | tuple):
        for item in section:
            yield from _places_read(item)


def _is_below(uri: str, place: str) -> bool:
    return (uri.rstrip("/") + "/").startswith(place.rstrip("/") + "/")


def _missing(job: JobSpec) -> list[str]:
    errors = []
    for uri, options in dict.fromkeys(places_needed(job)):
        try:
            _check_there(uri, options)
        except Syn2coError as error:
            errors.append(error_to_json(error))
        except OSError as error:
            errors.append(error_to_json(StorageError(uri, str(error))))
    return errors


def _check_there(uri: str, options: ObjectStoreSpec) -> None:
    """One request, whatever the size of what is there."""
    folder, _, last = uri.rstrip("/").rpartition("/")
    store = open_store(folder if "*" in last or "?" in last else uri, options)
    if store.filesystem.get_file_info(store.path).type == fs.FileType.NotFound:
        got = f"{socket.gethostname()} finds nothing there"
        raise StorageError(uri, got, "a place that all nodes can read", "check the URI and credentials")


def _errors(do: Callable[[Store], None], job_text: str) -> list[str]:
    """What goes wrong at the places that the job writes to, as JSON."""
    errors = []
    try:
        places = written_places(load_text(job_text))
    except Syn2coError as error:  # a node that lacks what the job file asks for
        return [error_to_json(error)]
    for store in places:
        try:
            # A data set that is there is not written again, and need not be ours to write.
            if not exists(store, PREPARED):
                do(store)
        except Syn2coError as error:
            errors.append(error_to_json(error))
    return errors
