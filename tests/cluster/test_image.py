"""The image: Dockerfile, what goes into it, and the two commands in it. Docker itself is not run here."""

from __future__ import annotations

import ast
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from types import ModuleType

import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from syn2co_ray.submit.probe import IMAGE_VARIABLE

from .dockerfile import build_context, copy, instructions
from .manifests import CLUSTER

ROOT = CLUSTER.parent
IMAGE = CLUSTER / "image"
STEPS = list(instructions((IMAGE / "Dockerfile").read_text()))
(PYTHON_OF_IMAGE,) = re.findall(r"python([\d.]+) -m venv", " ".join(words for _, words in STEPS))


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, IMAGE / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pinned() -> dict[str, str]:
    lines = (IMAGE / "constraints.txt").read_text().split()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_dockerfile_has_nothing_that_hadolint_would_change():
    if shutil.which("hadolint") is None:
        pytest.skip("needs hadolint (the extra `test` brings it)")
    done = subprocess.run(["hadolint", str(IMAGE / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_does_look(tmp_path):
    if shutil.which("hadolint") is None:
        pytest.skip("needs hadolint (the extra `test` brings it)")
    (tmp_path / "Dockerfile").write_text("FROM ubuntu\nRUN sudo ls\nRUN pip install x\n")
    done = subprocess.run(
        ["hadolint", str(tmp_path / "Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert {"DL3004", "DL3006", "DL3013"} <= set(re.findall(r"DL\d+", done.stdout))


def test_image_ends_as_the_user_that_the_manifests_name_and_holds_no_secret():
    users = [words for name, words in STEPS if name == "USER"]
    assert users == ["1000:1000"]
    last_user = max(number for number, (name, _) in enumerate(STEPS) if name == "USER")
    assert all(name not in ("RUN", "COPY", "ADD") for name, _ in STEPS[last_user:])
    assert not any(name == "ADD" for name, _ in STEPS)
    assert not re.search(r"(?i)password|secret|token|_key", (IMAGE / "Dockerfile").read_text())


def test_base_is_cudas_and_of_a_fixed_version():
    argument = next(words for name, words in STEPS if name == "ARG")
    assert re.fullmatch(r"CUDA_IMAGE=nvidia/cuda:\d+\.\d+\.\d+-\w+-ubuntu[\d.]+", argument)


def test_image_can_be_told_its_name_where_the_probe_of_submit_looks():
    assert ("ARG", "IMAGE") in STEPS
    assert ("ENV", f"{IMAGE_VARIABLE}=$IMAGE") in STEPS


def test_constraints_are_versions_only_and_meet_what_the_package_asks_for():
    text = (IMAGE / "constraints.txt").read_text()
    assert all(re.fullmatch(r"[\w.-]+==[\w.!+]+", line) for line in text.splitlines())
    pinned = _pinned()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *map(Requirement, project["dependencies"]),
        *map(Requirement, project["optional-dependencies"]["azure"]),
    ]
    assert len(needed) > 25
    for requirement in needed:
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_constraints_are_compiled_for_the_python_of_the_image_and_of_every_machine():
    (compiled,) = re.findall(
        r"uv pip compile .*--python-version ([\d.]+)", (CLUSTER / "README.md").read_text()
    )
    assert compiled == PYTHON_OF_IMAGE
    apt = next(words for name, words in STEPS if name == "RUN" and "apt-get" in words)
    assert {f"python{compiled}", f"python{compiled}-dev", f"python{compiled}-venv"} <= set(apt.split())
    for file in ("ray_up/aws.yaml", "ray_up/gcp.yaml", "skypilot.yaml"):
        made = re.findall(r"python([\d.]+) -m venv|uv venv .*--python ([\d.]+)", (CLUSTER / file).read_text())
        assert ["".join(versions) for versions in made] == [compiled], file


def test_constraints_hold_everything_that_a_cluster_needs_of_ray():
    missing = [
        requirement.name
        for requirement in map(Requirement, distribution("ray").requires or ())
        if requirement.marker
        and any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("default", "data", "train", "tune")
        )
        and canonicalize_name(requirement.name) not in _pinned()
    ]
    assert missing == []


def test_image_takes_the_package_and_its_jobs_and_neither_tests_nor_history():
    context = build_context(ROOT)
    assert {"pyproject.toml", "README.md", "LICENSE", "cluster/image/constraints.txt"} <= context
    tracked = subprocess.run(
        ["git", "ls-files", "syn2co_ray", "jobs"], cwd=ROOT, capture_output=True, text=True
    )
    if tracked.returncode == 0:
        assert set(tracked.stdout.split()) <= context
    assert {file.partition("/")[0] for file in context} == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "cluster",
        "jobs",
        "syn2co_ray",
    }
    assert not any("__pycache__" in file or "kuberay" in file for file in context)


def test_copied_files_are_there(tmp_path):
    for name, words in STEPS:
        if name == "COPY":
            copy(words, ROOT, tmp_path)
    assert (tmp_path / "opt/syn2co/syn2co_ray/cli.py").is_file()
    assert (tmp_path / "opt/syn2co/jobs/quickstart.yaml").is_file()
    assert (tmp_path / "opt/syn2co/constraints.txt").is_file()
    assert (tmp_path / "usr/local/bin/stop_drivers").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("version", [PYTHON_OF_IMAGE, "3.11"])
def test_steps_give_an_environment_that_runs(version, tmp_path):
    """Every COPY, and every RUN but those for Ubuntu's packages and users, in a folder instead of an image.

    With the image's Python, and with the oldest one that the package takes: whoever submits needs the same pins.
    """
    interpreter = shutil.which(f"python{version}")
    # One that is there may be a link of a version manager to nothing.
    if interpreter is None or subprocess.run([interpreter, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"needs a python{version} that runs on the PATH")
    ran = []
    for name, words in STEPS:
        if name == "COPY":
            copy(words, ROOT, tmp_path)
        if name == "RUN" and not re.search(r"apt-get|useradd", words):
            command = words.replace("/opt/", f"{tmp_path}/opt/")
            command = command.replace(f"python{PYTHON_OF_IMAGE} -m venv", f"python{version} -m venv")
            path = f"{tmp_path}/opt/venv/bin:{os.environ['PATH']}"
            environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
            subprocess.run(
                ["bash", "-c", command], check=True, timeout=3000, env=environment | {"PATH": path}
            )
            ran.append(words)
    assert len(ran) == 2
    tool = tmp_path / "opt/venv/bin/syn2co"
    quickstart = str(tmp_path / "opt/syn2co/jobs/quickstart.yaml")
    done = subprocess.run(
        [tool, "validate", quickstart], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    code = "import ray.dashboard.head, ray.job_submission, torch; print(ray.__version__)"
    python = tmp_path / "opt/venv/bin/python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.stdout.strip() == _pinned()["ray"], done.stderr


DRIVER = """
import pathlib, signal, sys, time
def leave(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[2]).write_text("checkpoint")
    sys.exit(130)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
signal.pause()
"""


def test_stop_drivers_waits_until_a_driver_has_published(tmp_path):
    (tmp_path / "syn2co").write_text(DRIVER)
    published = tmp_path / "published"
    command = [sys.executable, str(tmp_path / "syn2co"), "run", str(published)]
    bystander = [sys.executable, "-c", "import signal; print('ready', flush=True); signal.pause()", "syn2co"]
    with _started(command) as driver, _started(bystander) as other:
        stop_drivers = _module("stop_drivers")
        mine = [process for process in stop_drivers.drivers() if process.pid in (driver.pid, other.pid)]
        assert [process.pid for process in mine] == [driver.pid]
        assert stop_drivers.stop(mine, timeout_s=20) == []
        assert published.read_text() == "checkpoint"
        assert not psutil.pid_exists(driver.pid)
        assert other.poll() is None


def test_stop_drivers_says_which_driver_did_not_end(tmp_path):
    (tmp_path / "syn2co").write_text(
        "import signal\nsignal.signal(15, signal.SIG_IGN)\nprint('ready', flush=True)\nsignal.pause()\n"
    )
    with _started([sys.executable, str(tmp_path / "syn2co"), "run"]) as driver:
        stop_drivers = _module("stop_drivers")
        mine = [process for process in stop_drivers.drivers() if process.pid == driver.pid]
        assert [process.pid for process in stop_drivers.stop(mine, timeout_s=0.2)] == [driver.pid]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/opt/venv/bin/python3", "/opt/venv/bin/syn2co", "run", "job.yaml"], True),
        (["python", "-m", "syn2co_ray.cli", "run", "job.yaml"], True),
        (["/bin/sh", "-c", "syn2co run job.yaml"], False),
        (["python", "-m", "ray.dashboard", "syn2co"], False),
        (["ray::TrainWorker"], False),
        ([], False),
    ],
)
def test_stop_drivers_knows_a_driver_by_its_command(command, expected):
    assert _module("stop_drivers").is_driver(command) is expected


@contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class _Metadata(http.server.BaseHTTPRequestHandler):
    """Metadata servers of EC2 (with its session token) and Compute Engine; the third question is answered by yes."""

    def do_PUT(self) -> None:
        self._say(200, "session") if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] else self._say(
            400, ""
        )

    def do_GET(self) -> None:
        self.server.asked += 1
        soon = self.server.asked >= 3
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers["X-aws-ec2-metadata-token"] != "session":
                return self._say(401, "")
            return self._say(200, '{"action": "terminate"}') if soon else self._say(404, "")
        if (
            self.path == "/computeMetadata/v1/instance/preempted"
            and self.headers["Metadata-Flavor"] == "Google"
        ):
            return (
                self._say(503, "") if self.server.asked == 1 else self._say(200, "TRUE" if soon else "FALSE")
            )
        return self._say(403, "")

    def _say(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_watch_for_preemption_returns_with_the_news_and_not_before(cloud):
    with http.server.HTTPServer(("127.0.0.1", 0), _Metadata) as server:
        server.asked = 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _module("watch_for_preemption").wait(cloud, f"http://127.0.0.1:{server.server_port}", every_s=0.01)
        assert server.asked == 3
        server.shutdown()


def test_watch_for_preemption_asks_ray_for_what_ray_offers():
    """`ray drain-node` is no public interface: this release still has every option that is used."""
    from ray.scripts.scripts import drain_node

    command = ast.unparse(ast.parse((IMAGE / "watch_for_preemption.py").read_text()))
    offered = {option: parameter for parameter in drain_node.params for option in parameter.opts}
    assert set(re.findall(r"'(--[\w-]+)'", command)) <= set(offered)
    assert "DRAIN_NODE_REASON_PREEMPTION" in offered["--reason"].type.choices
    required = {option for option, parameter in offered.items() if parameter.required}
    assert required <= set(re.findall(r"'(--[\w-]+)'", command))
