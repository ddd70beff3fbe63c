"""Entries of golden files (numbers recorded from runs of the published code) as test parameters.

Files are looked for in the folder that SYN2CO_GOLDEN names, or in `golden/` of the shared reference folder.
Without them the tests are skipped, by name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}
"""How far what we compute in a precision may be from what was recorded."""
both_precisions = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).split(".")[1])


def golden_folder() -> Path:
    """Where golden files are, whether or not it exists."""
    shared = os.environ.get("SYN2CO_SHARED", Path(__file__).resolve().parents[2] / "shared")
    return Path(os.environ.get("SYN2CO_GOLDEN", Path(shared) / "golden"))


@dataclass(frozen=True)
class GoldenEntry:
    """One entry of a golden file: an array of a .npz, or a value of a .json."""

    file: Mapping[str, Any]
    name: str
    named: dict[str, str]
    """Parts of the name, from the groups of the pattern that found it."""

    @property
    def value(self) -> Any:
        return self.file[self.name]

    def number(self, part: str) -> float:
        """A part of the name as a number."""
        return float(self.named[part])

    def count(self, part: str) -> int:
        """A part of the name as a whole number."""
        return int(self.named[part])


def golden_entries(files: str, entry: str) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: every entry whose whole name matches, in every such file.

    Args:
        files: glob of file names, such as "schedules_*.npz".
        entry: regular expression with named groups.
    """
    found = []
    for path in sorted(golden_folder().glob(files)):
        content = (
            json.loads(path.read_text()) if path.suffix == ".json" else np.load(path, allow_pickle=False)
        )
        for name in content:
            if match := re.fullmatch(entry, name):
                value = GoldenEntry(content, name, match.groupdict())
                found.append(pytest.param(value, id=f"{path.stem}-{name}"))
    return found or [skipped(files)]


def skipped(files: str) -> Any:
    """The parameter that stands for files that are not there: a test skipped, by name."""
    reason = f"no golden vectors {files} in {golden_folder()}; set SYN2CO_GOLDEN to their folder"
    return pytest.param(None, id=files, marks=pytest.mark.skip(reason=reason))
