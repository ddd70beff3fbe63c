"""YAML text -> plain values plus the line of every dotted key.

PyYAML's safe loader with two repairs: `1e-3` is a number (YAML 1.1 would read a string), and a key
given twice is a fault instead of silently winning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from .errors import Fault, SpecError


class _SpecLoader(yaml.SafeLoader):
    pass


_SpecLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


@dataclass
class YamlDocument:
    """Values of a job file, with positions for its messages."""

    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Dotted keys that were taken over from another file -> that file."""

    def line_of(self, dotted: str) -> int | None:
        """Line of a dotted key, or of its nearest parent that is written in a file."""
        return self.lines.get(self._written(dotted))

    def file_of(self, dotted: str) -> str:
        """The other file that this line is in; empty for the job file itself."""
        return self.files.get(self._written(dotted), "")

    def below(self, prefix: str) -> YamlDocument:
        """The part under a dotted key, as a document of its own; `values` are not carried along."""
        start = f"{prefix}."
        lines = {key.removeprefix(start): line for key, line in self.lines.items() if key.startswith(start)}
        files = {key.removeprefix(start): file for key, file in self.files.items() if key.startswith(start)}
        return YamlDocument({}, lines, files)

    def _written(self, dotted: str) -> str:
        while dotted and dotted not in self.lines:
            dotted = dotted.rpartition(".")[0]
        return dotted


def parse_yaml(text: str, file: str) -> YamlDocument:
    """Parse one YAML mapping.

    Raises:
        SpecError: not YAML, not a mapping, or a key given twice.
    """
    loader = _SpecLoader(text)
    try:
        node = loader.get_single_node()
        values = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise SpecError([_syntax_fault(error)], file) from None
    finally:
        loader.dispose()
    if node is None or not isinstance(values, dict):
        fault = Fault("(file)", f"got {type(values).__name__}", "a mapping such as `kind: pretrain`", line=1)
        raise SpecError([fault], file)
    lines: dict[str, int] = {}
    duplicates: list[Fault] = []
    _walk(node, "", lines, duplicates)
    if duplicates:
        raise SpecError(duplicates, file)
    return YamlDocument(values, lines)


def parse_scalar(text: str) -> Any:
    """The value of a `key.path=value` override, read as YAML."""
    loader = _SpecLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _syntax_fault(error: yaml.YAMLError) -> Fault:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return Fault("(file)", f"not valid YAML: {problem}", line=mark.line + 1 if mark else None)


def _walk(node: yaml.Node, prefix: str, lines: dict[str, int], duplicates: list[Fault]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            name = f"{prefix}.{key_node.value}" if prefix else str(key_node.value)
            line = key_node.start_mark.line + 1
            if name in seen:
                duplicates.append(
                    Fault(name, f"given twice, first on line {lines[name]}", next_step="keep one", line=line)
                )
            seen.add(name)
            lines[name] = line
            _walk(value_node, name, lines, duplicates)
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            name = f"{prefix}.{position}"
            lines[name] = item.start_mark.line + 1
            _walk(item, name, lines, duplicates)
