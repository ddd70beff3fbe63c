"""SkyPilot's task, read by SkyPilot itself: from a virtual environment of its own, as its packages are not ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from .manifests import CLUSTER

FILE = CLUSTER / "skypilot.yaml"
READ = """
import sys, sky
for file in sys.argv[1:]:
    try:
        task = sky.Task.from_yaml(file)
        (resources,) = task.resources
        print("taken", task.num_nodes, resources.use_spot, dict(resources.accelerators))
    except Exception as error:
        print("refused", str(error).replace(chr(10), " "))
"""
BREAKS = [
    ("num_nodes: 2", "num_node: 2"),
    ("use_spot: true", "use_spot: sometimes"),
    ("accelerators:", "accelerator:"),
]


def _python() -> str:
    """The Python that has SkyPilot; skips, named, without one."""
    named = os.environ.get("SYN2CO_SKYPILOT_PYTHON")
    command = shutil.which("sky")
    if named is None and command is None:
        pytest.skip(
            "needs SkyPilot: `sky` on the PATH, or SYN2CO_SKYPILOT_PYTHON (pip install skypilot, apart)"
        )
    return named or Path(command).read_text().splitlines()[0].removeprefix("#!")  # type: ignore[arg-type]


def _read(files: list[Path], home: Path) -> list[str]:
    """What SkyPilot says of each file, in a line."""
    environment = os.environ | {
        "HOME": str(home),
        "RAY_AUTH_TOKEN": "0",
        "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
    }
    environment.pop("PYTHONPATH", None)
    command = [_python(), "-c", READ, *map(str, files)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, cwd=CLUSTER.parent, check=True
    )
    return [line for line in done.stdout.splitlines() if line.startswith(("taken", "refused"))]


@pytest.mark.slow
def test_skypilot_takes_the_task_and_refuses_broken_ones(tmp_path):
    files = [FILE]
    for number, (written, broken) in enumerate(BREAKS):
        assert FILE.read_text().count(written) == 1
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(FILE.read_text().replace(written, broken))
    good, *bad = _read(files, tmp_path)
    assert good == "taken 2 True {'L4': 4}"
    for (_, broken), said in zip(BREAKS, bad, strict=True):
        assert said.startswith("refused")
        assert broken.partition(":")[0] in said


def test_scripts_are_bash_and_start_ray_with_the_token_on_loopback():
    task = yaml.safe_load(FILE.read_text())
    for key in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[key], text=True, check=True, timeout=20)
    assert "RAY_AUTH_MODE=token" in task["run"]
    assert "--dashboard-host 127.0.0.1" in task["run"]
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert "ray stop" not in task["run"]


def test_header_and_scripts_name_files_that_are_there():
    text = FILE.read_text()
    positions = [text.find(f"# {word}:") for word in ("up", "submit", "down")]
    assert -1 < positions[0] < positions[1] < positions[2]
    for name in re.findall(r"(?:cluster|jobs)/[\w./-]+\.\w+", text):
        assert (CLUSTER.parent / name).exists(), name
