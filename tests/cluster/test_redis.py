"""Redis by the command of its manifest: its password is asked for, and is on no command line."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from syn2co_ray.submit.local_node import free_port

from .manifests import Document, rendered


def _container() -> Document:
    (redis,) = [document for document in rendered("overlays/eks") if document["kind"] == "StatefulSet"]
    return redis["spec"]["template"]["spec"]["containers"][0]


def _words(place: Path, port: int) -> list[str]:
    """The manifest's command, with a folder and a port of this machine, and a title that stays as it was started."""
    shell, option, script = _container()["args"]
    own = f"--bind 127.0.0.1 --port {port} --set-proc-title no"
    assert script.count("--dir /data") == 1
    return [shell, option, script.replace("--dir /data", f"--dir {place} {own}")]


def _answer(port: int, *words: str, password: str | None = None) -> str:
    environment = os.environ | ({"REDISCLI_AUTH": password} if password else {})
    command = ["redis-cli", "-p", str(port), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment)
    return done.stdout + done.stderr


def test_password_is_asked_for_is_on_no_command_line_and_sigterm_reaches_redis(tmp_path):
    if shutil.which("redis-server") is None or shutil.which("redis-cli") is None:
        pytest.skip("needs redis-server and redis-cli")
    password, port = secrets.token_hex(16), free_port()
    probe = _container()["readinessProbe"]["exec"]["command"]
    assert probe == ["redis-cli", "ping"]
    server = subprocess.Popen(
        _words(tmp_path, port),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"REDIS_PASSWORD": password},
        start_new_session=True,
    )
    try:
        assert server.stdout
        assert any("Ready to accept connections" in line for line in server.stdout)
        assert "NOAUTH" in _answer(port, "ping")
        assert _answer(port, "ping", password=password) == "PONG\n"
        process = psutil.Process(server.pid)
        assert process.name() == "redis-server"
        assert process.children() == []
        assert "--maxmemory-policy" in process.cmdline()
        assert password not in " ".join(process.cmdline())
        server.terminate()
        assert server.wait(timeout=20) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert any((tmp_path / "appendonlydir").iterdir())
