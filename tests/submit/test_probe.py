from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

from syn2co_ray.spec.identity import resolved_yaml
from syn2co_ray.submit import probe
from syn2co_ray.submit.reach import leave_mark
from tests.train.local_run import tiny_job


def test_a_node_says_its_libraries_its_image_and_what_it_can_reach(monkeypatch, tmp_path):
    monkeypatch.setenv(probe.IMAGE_VARIABLE, "registry/syn2co:1")
    text = resolved_yaml(tiny_job(tmp_path))
    mark, _ = leave_mark(text)
    answer = probe.ask_node("gpu-1", ["timm", "no-such-library"], text, mark)
    assert answer["libraries"] == {"timm": version("timm"), "no-such-library": None}
    assert (answer["node"], answer["image"], answer["unreachable"]) == ("gpu-1", "registry/syn2co:1", [])


def test_a_head_without_ray_and_without_this_package_says_so(tmp_path):
    """As its own file, in a Python that has the standard library alone."""
    command = [sys.executable, "-I", "-S", probe.__file__, str(tmp_path / "job.yaml"), "timm", "pyarrow"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={})
    assert done.returncode == 0, done.stderr
    (head,) = json.loads(done.stdout.removeprefix(probe.ANSWER))["nodes"]
    assert head["libraries"] == {"timm": None, "pyarrow": None}
    assert [head[name] for name in ("ray", probe.PACKAGE, "image")] == [None, None, None]
