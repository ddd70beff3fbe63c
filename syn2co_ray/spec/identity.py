"""The resolved spec: every default filled in, as YAML, as a hash and as a JSON Schema."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .generate import GenerateSpec
from .job import JOB_KINDS, FolderJobSpec
from .job_file import BASE
from .pipeline import SHARED
from .search import SearchSpec

SHORT_HASH_LENGTH = 8


def resolved(spec: BaseModel) -> dict[str, Any]:
    """Plain values of a spec with all defaults filled in."""
    return spec.model_dump(mode="json")


def resolved_yaml(spec: BaseModel) -> str:
    """The resolved spec as a job file that runs as it is."""
    return yaml.safe_dump(resolved(spec), sort_keys=False, default_flow_style=None, width=100)


def spec_hash(spec: BaseModel) -> str:
    """SHA-256 (hex) over the fields that decide what is computed.

    Fields marked `execution_only` (workers, actors, checkpoint cadence, storage) are left out: a run
    may be resumed with other resources and stays the same run. So are fields that are null: a later
    version may add optional ones.
    """
    return hashlib.sha256(_canonical(_identity(spec))).hexdigest()


def hash_but_seed(spec: BaseModel) -> str:
    """As `spec_hash`, without seed and name: trainings that have it in common are repeats of one another."""
    values = {name: value for name, value in _identity(spec).items() if name not in ("seed", "name")}
    return hashlib.sha256(_canonical(values)).hexdigest()


def run_name(spec: FolderJobSpec | GenerateSpec | SearchSpec) -> str:
    """Name of the run's folder: the job's name and the short hash of its spec."""
    return f"{spec.name}-{spec_hash(spec)[:SHORT_HASH_LENGTH]}"


def json_schema() -> dict[str, Any]:
    """JSON Schema of a job file, for editors and for checks outside this package."""
    schemas = {kind: _schema_of(model) for kind, model in JOB_KINDS.items()}
    definitions: dict[str, Any] = {}
    for schema in schemas.values():
        definitions |= schema.pop("$defs", {})
    pipeline, search = schemas.pop("pipeline"), schemas.pop("search")
    values_of_all = {name: schemas["pretrain"]["properties"][name] for name in SHARED}
    pipeline["properties"] |= {**values_of_all, "steps": {"type": "array", "items": {"$ref": "#/$defs/Step"}}}
    # Without `base` for another file: in a search it is the job that is varied.
    search["required"] = search.pop("anyOf")[1]["required"]
    search["properties"]["base"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Varied"}]}
    definitions["Varied"] = {"type": "object", **schemas["pretrain"]}
    steps = {kind: _without_shared(schema) for kind, schema in schemas.items()}
    definitions["Step"] = {"type": "object", **_by_kind(steps)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": definitions,
        "type": "object",
        **_by_kind({"pipeline": pipeline, "search": search, **schemas}),
    }


def _without_shared(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a step, which may take over what its pipeline gives."""
    based, whole = schema["anyOf"]
    required = [name for name in whole["required"] if name not in SHARED]
    return {**schema, "anyOf": [based, {"required": required}]}


def _by_kind(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A schema that looks at `kind`; a file without one, which may have it from its base, is a training."""
    chosen = schemas["pretrain"]
    for kind, schema in schemas.items():
        if kind != "pretrain":
            is_kind = {"properties": {"kind": {"const": kind}}, "required": ["kind"]}
            chosen = {"if": is_kind, "then": schema, "else": chosen}
    return chosen


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(mode="validation")
    base = {"type": "string", "description": "Another job file whose values this one's replace."}
    schema["properties"] = {BASE: base, **schema["properties"]}
    # What a file with a base leaves out may be in that base.
    schema["anyOf"] = [{"required": [BASE]}, {"required": schema.pop("required")}]
    return schema


def _canonical(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _execution_only(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("execution_only"))


def _identity(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {
            name: _identity(getattr(value, name))
            for name, info in type(value).model_fields.items()
            if getattr(value, name) is not None and not _execution_only(info)
        }
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if isinstance(value, dict):
        return {key: _identity(item) for key, item in value.items()}
    return value
