"""Whether an API server would take a manifest, found offline: strict schemas, and the rules that CRDs carry.

Kubernetes' own kinds: the schemas that the package kubernetes-validate brings. KubeRay's: the CustomResourceDefinitions
of v1.7.0 from the shared folder: their structural schema, with unknown fields refused as `fieldValidation=Strict` does,
and their CEL rules. Not covered: defaults, webhooks, and what the operator itself refuses later.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import cel
import jsonschema
import kubernetes_validate
import yaml

KUBERNETES_VERSION = "1.34"
Schema = dict[str, Any]


def faults(document: Schema, crds: Path) -> list[str]:
    """What an API server would refuse, each as `path: reason`; empty when it would take the document.

    Args:
        document: a manifest.
        crds: folder with KubeRay's CustomResourceDefinitions.
    """
    group = document["apiVersion"].partition("/")[0]
    if group != "ray.io":
        return _faults_of_own_kind(document)
    schema = _schema(document["apiVersion"], document["kind"], crds)
    if schema is None:
        return [f"kind: KubeRay knows no {document['apiVersion']} {document['kind']}"]
    found = _validator(document["apiVersion"], document["kind"], crds).iter_errors(document)
    refused = [f"{'.'.join(map(str, fault.absolute_path))}: {fault.message[:200]}" for fault in found]
    return refused + [f"{path}: {message}" for path, message in _broken_rules(schema, document)]


def _faults_of_own_kind(document: Schema) -> list[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"kind: {error.message}"]
    return []


@lru_cache
def _schema(api_version: str, kind: str, crds: Path) -> Schema | None:
    file = crds / f"ray.io_{kind.lower()}s.yaml"
    if not file.is_file():
        return None
    versions = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    schemas = [v["schema"]["openAPIV3Schema"] for v in versions if f"ray.io/{v['name']}" == api_version]
    return schemas[0] if schemas else None


@lru_cache
def _validator(api_version: str, kind: str, crds: Path) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(_strict(_schema(api_version, kind, crds), at_root=True))


def _strict(schema: Any, at_root: bool = False) -> Any:
    """The structural schema as a JSON Schema that refuses unknown fields."""
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: value
        for key, value in schema.items()
        if not key.startswith("x-kubernetes") and key not in ("description", "format", "default")
    }
    if schema.get("x-kubernetes-int-or-string"):
        kept.pop("anyOf", None)
        kept["type"] = ["integer", "string"]
    if schema.get("nullable"):
        kept["type"] = [schema["type"], "null"]
    if "properties" in schema:
        kept["properties"] = {key: _strict(value) for key, value in schema["properties"].items()}
        if at_root:  # every object has them; the CRD leaves them to the API server
            kept["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    for key in ("additionalProperties", "items"):
        if isinstance(kept.get(key), dict):
            kept[key] = _strict(schema[key])
    return kept


def _broken_rules(schema: Any, value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if value is None or not isinstance(schema, dict):
        return
    for rule in schema.get("x-kubernetes-validations", ()):
        # What compares with an older self says nothing of an object that is new.
        if "oldSelf" not in rule["rule"] and cel.evaluate(rule["rule"], {"self": value}) is not True:
            yield path.lstrip("."), rule.get("message", rule["rule"])
    if isinstance(value, dict):
        for key, below in value.items():
            known = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            yield from _broken_rules(known, below, f"{path}.{key}")
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _broken_rules(schema.get("items"), below, f"{path}.{number}")
