"""Which models timm has, read from its source: importing it, and torch with it, takes seconds."""

from __future__ import annotations

import difflib
import functools
import re
from importlib.util import find_spec
from pathlib import Path

_REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)\(", re.MULTILINE)
_RENAMED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)


def is_known_backbone(name: str) -> bool:
    """Whether timm has this model, under this or an old name, whatever the tag of its weights (`model.tag`).

    True where timm is not installed, as there is nothing to look the name up in.
    """
    model = name.partition(".")[0]
    return not _sources() or model in _names() or model in _old_names()


def nearest_backbones(name: str, count: int = 4) -> list[str]:
    """timm's models whose names are most like it."""
    containing = sorted((known for known in _names() if name in known), key=len)
    return (containing or difflib.get_close_matches(name, _names(), n=count, cutoff=0.0))[:count]


@functools.cache
def _names() -> list[str]:
    return sorted({name for source in _sources() for name in _REGISTERED.findall(source)})


@functools.cache
def _old_names() -> set[str]:
    tables = [table for source in _sources() for table in _RENAMED.findall(source)]
    return {name for table in tables for name in re.findall(r"['\"](\w+)['\"]\s*:", table)}


@functools.cache
def _sources() -> list[str]:
    spec = find_spec("timm")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder, "models").glob("*.py")]
    return [file.read_text(encoding="utf-8") for file in files]
