"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with reference data that is not part of the project; tests that need it skip without it."""
    path = Path(os.environ.get("SYN2CO_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not path.is_dir():
        pytest.skip(f"needs the shared reference folder ({path}); set SYN2CO_SHARED to its path")
    return path
