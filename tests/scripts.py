"""Running a script of the tests that starts a cluster of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def output_of_script(module: str, *words: str, timeout_s: float) -> str:
    """What a script printed; it must end well, in time.

    One that does not is asked to end (SIGTERM), so that it takes its cluster with it.
    """
    script = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = script.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        script.terminate()
        out, err = script.communicate(timeout=120)
        raise AssertionError(f"not done in {timeout_s:g} s\n{out}\n{err[-3000:]}") from None
    assert script.returncode == 0, out + err[-3000:]
    return out
