"""The local file that a command writes (`--into`), looked at before the work for it."""

from __future__ import annotations

from pathlib import Path

from ..spec.errors import Fault, SpecError


def check_into(into: str) -> None:
    """Refuse a file that could not be written.

    Raises:
        SpecError: its folder is not there, or it is a folder itself.
    """
    folder = Path(into).parent
    if not folder.is_dir():
        raise SpecError(
            [Fault("--into", f"{into}, but there is no folder {folder}", "a file", "make the folder")]
        )
    if Path(into).is_dir():
        raise SpecError([Fault("--into", f"{into} is a folder", "a file", "add a name")])
