"""A job file plus overrides -> a valid spec, or every fault of it at once."""

from __future__ import annotations

import copy
import difflib
import typing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from .dotted import set_at
from .errors import Fault, SpecError
from .job import JOB_KINDS, JobSpec, PretrainSpec
from .job_file import read_job_file
from .pipeline import SHARED, PipelineJobSpec, step_values
from .rules import cross_field_faults
from .search import SearchSpec
from .trial_specs import faults_of_points
from .yaml_source import YamlDocument, parse_scalar, parse_yaml

STEP_KINDS = [kind for kind in JOB_KINDS if kind not in ("pipeline", "search")]


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read, override and check a job file.

    Args:
        path: YAML file; `base: other.yaml` in it takes over another file's values (see `job_file`).
        overrides: `key.path=value` texts; values are read as YAML, list items by position
            (`data.train.0.share=0.5`).

    Raises:
        SpecError: with all faults found, dotted keys and line numbers.
    """
    return _checked(read_job_file(path), overrides, str(path))


def load_jobs(paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> list[JobSpec]:
    """Several job files, with the same overrides.

    Raises:
        SpecError: with all faults of all files, or two jobs of one name.
    """
    jobs: list[JobSpec] = []
    faults: list[Fault] = []
    for path in paths:
        try:
            jobs.append(load_job(path, overrides))
        except SpecError as error:
            faults += [replace(fault, file=fault.file or error.file) for fault in error.faults]
    names = [job.name for job in jobs]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(Fault("name", f"{names.count(name)} jobs are called {name}", next_step="rename one"))
    if faults:
        raise SpecError(faults, ", ".join(map(str, paths)))
    return jobs


def load_text(text: str, overrides: Sequence[str] = (), file: str = "job.yaml") -> JobSpec:
    """As `load_job`, from the YAML text itself."""
    return _checked(parse_yaml(text, file), overrides, file)


def _checked(document: YamlDocument, overrides: Sequence[str], file: str) -> JobSpec:
    values, faults = _with_overrides(document.values, overrides)
    if faults:
        raise SpecError(faults, file)
    return build_spec(values, document, file)


def build_spec(values: dict[str, Any], document: YamlDocument | None = None, file: str = "job") -> JobSpec:
    """Check plain values against the spec's types and its cross-field rules."""
    document = document or YamlDocument(values)
    kind = values.get("kind")
    if kind not in JOB_KINDS:
        got = "missing" if kind is None else f"got {kind!r}"
        fault = Fault(
            "kind", got, " | ".join(JOB_KINDS), _nearest(str(kind), JOB_KINDS), document.line_of("kind")
        )
        raise SpecError([fault], file)
    model = JOB_KINDS[kind]
    faults: list[Fault] = []
    if model is PipelineJobSpec:
        values, faults = _with_steps(values, document)
    elif model is SearchSpec:
        values, faults = _with_varied_job(values, document)
    try:
        spec = model.model_validate(values)
    except ValidationError as error:
        found = [_readable(item, model, values, document) for item in _telling(error)]
        # The own faults of a step, or of a search's base, say more than that it is no job.
        told = {"base"} if model is SearchSpec and faults else set()
        faults += [
            fault
            for fault in found
            if fault.where.partition(".")[0] not in told
            and not any(f.where.startswith(f"{fault.where}.") for f in faults)
        ]
        spec = None
    if spec is None:
        sections = _valid_sections(
            model, _without(values, [f.where for f in faults if f.got == "unknown key"])
        )
    else:
        sections = {name: getattr(spec, name) for name in model.model_fields}
    for fault in cross_field_faults(sections):
        faults.append(
            Fault(fault.where, fault.got, fault.allowed, fault.next_step, document.line_of(fault.where))
        )
    if isinstance(spec, SearchSpec) and not faults:
        found = faults_of_points(spec, build_spec)
        faults += [replace(fault, line=document.line_of(fault.where)) for fault in found]
    if faults or spec is None:
        placed = [replace(fault, file=document.file_of(fault.where)) for fault in faults]
        raise SpecError(sorted(placed, key=lambda f: (f.file, f.line or 0, f.where)), file)
    return spec


def _with_steps(values: dict[str, Any], document: YamlDocument) -> tuple[dict[str, Any], list[Fault]]:
    """A pipeline's values with its steps as valid jobs, where they are, and the faults of the others."""
    steps = values.get("steps")
    if not isinstance(steps, list):
        return values, []
    jobs: list[Any] = []
    faults: list[Fault] = []
    for number, step in enumerate(steps):
        where = f"steps.{number}"
        if not isinstance(step, dict) or step.get("kind") not in STEP_KINDS:
            got = step.get("kind") if isinstance(step, dict) else step
            nearest = _nearest(str(got), STEP_KINDS)
            faults.append(
                Fault(
                    f"{where}.kind", f"got {got!r}", " | ".join(STEP_KINDS), nearest, document.line_of(where)
                )
            )
            continue
        own = step_values(values, step, set(JOB_KINDS[step["kind"]].model_fields))
        try:
            jobs.append(build_spec(own, document.below(where)))
        except SpecError as error:
            faults += [
                replace(
                    fault, where=f"{where}.{fault.where}", file=document.file_of(f"{where}.{fault.where}")
                )
                for fault in error.faults
            ]
    names = [job.name for job in jobs]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(Fault("steps", f"{names.count(name)} are called {name}", "a name each", "rename one"))
    kept = {key: value for key, value in values.items() if key not in SHARED}
    return {**kept, "steps": tuple(jobs) if len(jobs) == len(steps) else steps}, faults


def _with_varied_job(values: dict[str, Any], document: YamlDocument) -> tuple[dict[str, Any], list[Fault]]:
    """A search's values with its base as a valid job, if it is one, and the base's faults."""
    base = values.get("base")
    if not isinstance(base, dict):
        return values, []
    if base.get("kind") != "pretrain":
        got = f"got {base['kind']!r}" if "kind" in base else "missing"
        return values, [Fault("base.kind", got, "pretrain", line=document.line_of("base.kind"))]
    try:
        return {**values, "base": build_spec(base, document.below("base"))}, []
    except SpecError as error:
        return values, [
            replace(fault, where=f"base.{fault.where}", file=document.file_of(f"base.{fault.where}"))
            for fault in error.faults
        ]


def _without(values: dict[str, Any], dotted_keys: Sequence[str]) -> dict[str, Any]:
    """A copy that lacks the given keys: a misspelled key must not hide a section from the rules."""
    values = copy.deepcopy(values)
    for dotted in dotted_keys:
        *parents, last = dotted.split(".")
        node: Any = values
        for part in parents:
            # A key of a search's space has dots itself: it is left as it is.
            node = node[int(part)] if isinstance(node, list) else node.get(part, {})
        node.pop(last, None)
    return values


def _valid_sections(model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """The top-level fields that are valid on their own, so that rules can still look at them."""
    valid = {}
    for name, info in model.model_fields.items():
        if name not in values:
            if not info.is_required():
                valid[name] = info.get_default(call_default_factory=True)
            continue
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(info.annotation)  # type: ignore[arg-type]
            valid[name] = adapter.validate_python(values[name])
        except ValidationError:
            continue
    return valid


def _with_overrides(values: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[Fault]]:
    values = copy.deepcopy(values)
    faults = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            faults.append(
                Fault(text, "not an override", "key.path=value", "write for example train.epochs=5")
            )
            continue
        fault = set_at(values, key, parse_scalar(value))
        if fault:
            faults.append(fault)
    return values, faults


def _telling(error: ValidationError) -> list[Any]:
    """pydantic's errors, without those of lists that are too short only because their items are faulty."""
    items = error.errors()
    places = {item["loc"][:-1] for item in items}
    return [item for item in items if item["type"] != "too_short" or item["loc"] not in places]


def _readable(item: Any, model: type[BaseModel], values: dict[str, Any], document: YamlDocument) -> Fault:
    """One pydantic error as a fault: dotted key, what was got, what is allowed."""
    location = _without_tags(item["loc"], values)
    dotted = ".".join(str(part) for part in location)
    line = document.line_of(dotted)
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _unknown_kind(item, dotted, model, document)
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, item["loc"][:-1])
        step = _key_of_a_part(dotted, model, values) or _nearest(str(location[-1]), known)
        return Fault(dotted, "unknown key", ", ".join(known), step, line)
    if item["type"] == "missing":
        return Fault(dotted, "missing", _description(model, item["loc"]), f"add {location[-1]}:", line)
    got = item.get("input")
    shown = "a mapping" if isinstance(got, dict) else repr(got)
    return Fault(dotted, f"got {shown}", item["msg"], line=line)


def _key_of_a_part(key: str, model: type[BaseModel], values: dict[str, Any]) -> str:
    """What to write when a key of a step, or of a search's base, was given for the whole."""
    if model is SearchSpec and key in PretrainSpec.model_fields:
        return f"did you mean base.{key}?"
    steps = values.get("steps", ()) if model is PipelineJobSpec else ()
    for number, step in enumerate(steps):
        kind = type(step) if isinstance(step, BaseModel) else JOB_KINDS.get(dict(step).get("kind", ""))
        if kind is not None and key in kind.model_fields:
            return f"did you mean steps.{number}.{key}?"
    return ""


def _unknown_kind(item: Any, dotted: str, model: type[BaseModel], document: YamlDocument) -> Fault:
    """The key that chooses a section's form (`method.framework`) is missing, or names no form there is."""
    key, tag = item["ctx"]["discriminator"].strip("'"), item["ctx"].get("tag")
    forms = [found.model_fields[key].annotation for found in _model_at(model, item["loc"])]
    known = [name for form in forms for name in typing.get_args(form)]
    where = f"{dotted}.{key}"
    got, nearest = ("missing", f"add {key}:") if tag is None else (f"got {tag!r}", _nearest(tag, known))
    return Fault(where, got, ", ".join(known), nearest, document.line_of(where))


def _without_tags(location: tuple[Any, ...], values: Any) -> list[Any]:
    """pydantic's location without the parts it adds for unions (they are no keys of the file)."""
    kept: list[Any] = []
    node = values
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, dict) and (part in node or last):
            kept.append(part)
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            kept.append(part)
            node = node[part]
        elif last and not isinstance(node, dict | list) and not kept:
            kept.append(part)
    return kept or list(location)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _model_at(model: type[BaseModel], location: Sequence[Any]) -> list[type[BaseModel]]:
    """The section types that a pydantic location can mean."""
    models = [model]
    for part in location:
        deeper = [
            found
            for candidate in models
            if part in candidate.model_fields
            for found in _models_in(candidate.model_fields[part].annotation)
        ]
        tagged = [m for m in models if _has_tag(m, part)]
        models = deeper or tagged or models
    return models


def _has_tag(model: type[BaseModel], tag: Any) -> bool:
    return any(tag in typing.get_args(info.annotation) for info in model.model_fields.values())


def _known_keys(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(name for found in _model_at(model, location) for name in found.model_fields))


def _description(model: type[BaseModel], location: Sequence[Any]) -> str:
    for found in _model_at(model, location[:-1]):
        info = found.model_fields.get(str(location[-1]))
        if info and info.description:
            return info.description.replace("\n", " ")
    return "a value"


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else ""
