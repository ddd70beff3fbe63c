"""A driver whose cluster's head is gone says so before it ends."""

from __future__ import annotations

import os
import subprocess
import sys

HEAD = """
import socket, sys, threading
from syn2co_ray.submit.head_watch import HeadWatch
head = socket.create_server(("127.0.0.1", 0))
port = head.getsockname()[1]
watch = HeadWatch(f"127.0.0.1:{port}")
with watch:
    assert watch.answers()
    head.close()
    if sys.argv[1] == "comes back":
        head = socket.create_server(("127.0.0.1", port))
        threading.Event().wait(4)
    elif sys.argv[1] == "dies":
        threading.Event().wait(60)
threading.Event().wait(3)
print("left in peace")
"""


def driver(fate: str) -> subprocess.CompletedProcess[str]:
    """A process that waits for two seconds for its head."""
    return subprocess.run(
        [sys.executable, "-c", HEAD, fate],
        env={**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "7"},
        capture_output=True,
        text=True,
        timeout=90,
    )


def test_a_driver_says_that_its_head_is_gone_and_exits_as_a_failed_run() -> None:
    ended = driver("dies")
    assert ended.returncode == 4
    assert "error: Ray's head at 127.0.0.1:" in ended.stderr
    assert "does not answer any more (for 2 s)" in ended.stderr
    assert "the same command: it resumes" in ended.stderr


def test_a_head_that_comes_back_and_one_that_is_no_longer_needed_end_nothing() -> None:
    for fate in ("comes back", "is left"):
        ended = driver(fate)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == "left in peace\n"
