"""A job file, and the files it builds on, as one document.

`base: other.yaml` (a path relative to the file that says so) takes over another file's values; the keys
written here replace them one by one, lists as a whole. A base may have a base, and so may each
step of a pipeline. The `base` of a search is the job that it varies: a path, or keys with a `base` of
their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import Fault, SpecError
from .yaml_source import YamlDocument, parse_yaml

BASE = "base"


def read_job_file(path: str | Path) -> YamlDocument:
    """Values of a job file over those of its base, with the place of every key.

    Raises:
        SpecError: a file that cannot be read or parsed, or that builds on itself.
    """
    return _read(Path(path), [])


def _read(path: Path, above: list[Path]) -> YamlDocument:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        step = f"mend `{BASE}` in {above[-1]}" if above else "check the path; examples are in jobs/"
        raise SpecError([Fault(str(path), str(error), "a readable YAML job file", step)]) from None
    own = parse_yaml(text, str(path))
    if own.values.get("kind") == "search":
        return _with_varied_job(own, path, above)
    steps = own.values.get("steps")
    if own.values.get("kind") == "pipeline" and isinstance(steps, list):
        for number, step in enumerate(steps):
            if isinstance(step, dict) and BASE in step:
                own = _with_step(own, number, path, above)
    return _over_its_base(own, path, above)


def _with_step(own: YamlDocument, number: int, path: Path, above: list[Path]) -> YamlDocument:
    """The document with one step's base filled in."""
    part = own.below(f"steps.{number}")
    part.values = own.values["steps"][number]
    whole = _over_its_base(part, path, above)
    steps = [whole.values if i == number else step for i, step in enumerate(own.values["steps"])]
    return _with_part(own, f"steps.{number}", whole, {"steps": steps})


def _with_varied_job(own: YamlDocument, path: Path, above: list[Path]) -> YamlDocument:
    """A search with the job that it varies filled in."""
    part = own.below(BASE)
    base = own.values.get(BASE)
    if isinstance(base, str):
        part.values, part.lines = {BASE: base}, {BASE: own.lines[BASE]}
    elif isinstance(base, dict) and BASE in base:
        part.values = dict(base)
    else:
        return own
    whole = _over_its_base(part, path, above)
    return _with_part(own, BASE, whole, {BASE: whole.values})


def _with_part(own: YamlDocument, where: str, part: YamlDocument, values: dict[str, Any]) -> YamlDocument:
    """The document with these values, one of them a part whose keys have lines and files of their own."""
    lines = own.lines | {f"{where}.{key}": line for key, line in part.lines.items()}
    files = own.files | {f"{where}.{key}": file for key, file in part.files.items()}
    return YamlDocument({**own.values, **values}, lines, files)


def _over_its_base(own: YamlDocument, path: Path, above: list[Path]) -> YamlDocument:
    base = own.values.pop(BASE, None)
    if base is None:
        return own
    line = own.lines.pop(BASE)
    if not isinstance(base, str):
        fault = Fault(BASE, f"got {base!r}", "the path of another job file", line=line)
        raise SpecError([fault], str(path))
    chain = [*above, path]
    target = path.parent / base
    if target.resolve() in [file.resolve() for file in chain]:
        fault = Fault(BASE, f"{base} builds on this file again", "a file without a circle", line=line)
        raise SpecError([fault], str(path))
    return _over(_read(target, chain), own, str(target))


def _over(base: YamlDocument, own: YamlDocument, base_file: str) -> YamlDocument:
    files = {key: base.files.get(key, base_file) for key in base.lines if key not in own.lines}
    return YamlDocument(_merged(base.values, own.values), {**base.lines, **own.lines}, files)


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged
