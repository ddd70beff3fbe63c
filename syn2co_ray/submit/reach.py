"""Which of a job's places a node of the cluster can use: its storage, and the sources that must be there."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator

from pyarrow import fs
from pydantic import BaseModel

from ..spec.embed import EmbedSpec
from ..spec.errors import StorageError, Syn2coError, error_to_json
from ..spec.evaluation import EvaluateJobSpec
from ..spec.generate import GenerateSpec
from ..spec.job import JobSpec, SingleJobSpec, TrainGeneratorSpec, TrainingSpec, steps_of
from ..spec.load import load_text
from ..spec.search import SearchSpec
from ..spec.source import ObjectStoreSpec, SourceSpec
from ..storage import Store, delete, open_store, publish_bytes, read_bytes

MARK = ".syn2co-probe-"


def leave_mark(job_text: str) -> tuple[str, list[str]]:
    """Write an object into every place that the job writes to; returns its name and what went wrong."""
    mark = f"{MARK}{uuid.uuid4().hex}"
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

    return _errors(both_ways, job_text) + _missing_sources(load_text(job_text))


def written_places(job: JobSpec) -> list[Store]:
    """Where the job's steps write, each once."""
    places: dict[str, Store] = {}
    for step in _steps(job):
        uris = [step.into] if isinstance(step, GenerateSpec | TrainGeneratorSpec) else []
        uris += [] if isinstance(step, GenerateSpec) else [step.storage]
        for uri in uris:
            store = open_store(uri, step.object_store)
            places.setdefault(store.uri, store)
    return list(places.values())


def sources_needed(job: JobSpec) -> Iterator[tuple[SourceSpec, ObjectStoreSpec]]:
    """Sources that must be there before the job starts: none that it writes itself."""
    made: list[str] = []
    for step in _steps(job):
        if isinstance(step, GenerateSpec):
            made.append(step.into)
        elif isinstance(step, TrainingSpec | EvaluateJobSpec) and step.data is not None:
            made += [prepared.into for prepared in step.data.prepare]
        elif isinstance(step, EmbedSpec):
            made += [prepared.into for prepared in step.prepare]
        for source in _sources(step):
            if not any(_is_below(source.uri, place) for place in made):
                yield source, step.object_store


def _steps(job: JobSpec) -> tuple[SingleJobSpec, ...]:
    return (job.training,) if isinstance(job, SearchSpec) else steps_of(job)


def _sources(section: object) -> Iterator[SourceSpec]:
    """All sources in a spec, wherever they are."""
    if isinstance(section, SourceSpec):
        yield section
    elif isinstance(section, BaseModel):
        for name in type(section).model_fields:
            yield from _sources(getattr(section, name))
    elif isinstance(section, list | tuple):
        for item in section:
            yield from _sources(item)


def _is_below(uri: str, place: str) -> bool:
    return (uri.rstrip("/") + "/").startswith(place.rstrip("/") + "/")


def _missing_sources(job: JobSpec) -> list[str]:
    errors = []
    for source, options in sources_needed(job):
        try:
            _check_there(source, options)
        except Syn2coError as error:
            errors.append(error_to_json(error))
        except OSError as error:
            errors.append(error_to_json(StorageError(source.uri, str(error))))
    return errors


def _check_there(source: SourceSpec, options: ObjectStoreSpec) -> None:
    """One request, whatever the size of the source."""
    folder, _, last = source.uri.rstrip("/").rpartition("/")
    store = open_store(folder if "*" in last or "?" in last else source.uri, options)
    if store.filesystem.get_file_info(store.path).type == fs.FileType.NotFound:
        got = f"{socket.gethostname()} finds nothing there"
        raise StorageError(
            source.uri, got, "a prefix that all nodes can read", "check the URI and credentials"
        )


def _errors(do: Callable[[Store], None], job_text: str) -> list[str]:
    """What goes wrong at the places that the job writes to, as JSON."""
    errors = []
    for store in written_places(load_text(job_text)):
        try:
            do(store)
        except Syn2coError as error:
            errors.append(error_to_json(error))
    return errors
