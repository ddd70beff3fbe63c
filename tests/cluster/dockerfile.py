"""A Dockerfile's instructions, and its steps done in a folder instead of an image, as far as that goes without Docker."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction and its words, with continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, words = line.partition(" ")
        yield name.upper(), re.sub(r"\s+", " ", words).strip()


def build_context(root: Path) -> set[str]:
    """The files below `root` that .dockerignore lets through, relative to it; the last line that matches decides.

    Covers the forms that our file uses: `*`, `!path`, and `**/name`.
    """
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    files = (
        path.relative_to(root) for path in root.rglob("*") if path.is_file() and ".git" not in path.parts
    )
    return {str(file) for file in files if not _is_left_out(file, rules)}


def _is_left_out(file: Path, rules: list[str]) -> bool:
    places = [str(file), *map(str, file.parents)][:-1]
    left_out = False
    for rule in rules:
        pattern = rule.lstrip("!")
        names = [place.rpartition("/")[2] for place in places] if pattern.startswith("**/") else places
        if any(fnmatch(name, pattern.removeprefix("**/")) for name in names):
            left_out = not rule.startswith("!")
    return left_out


def copy(words: str, root: Path, place: Path) -> None:
    """Do a COPY instruction: from the build context in `root` to the image's paths below `place`."""
    context = build_context(root)
    *sources, target = [word for word in words.split() if not word.startswith("--")]
    for source in sources:
        taken = [file for file in context if file == source or file.startswith(f"{source}/")]
        assert taken, f".dockerignore keeps {source} from the image"
        for file in taken:
            inside = Path(file).name if file == source else file.removeprefix(f"{source}/")
            into = place / target.lstrip("/")
            destination = into if file == source and not target.endswith("/") else into / inside
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, destination)
