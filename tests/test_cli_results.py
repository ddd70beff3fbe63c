"""The commands that show what is there, as a user types them."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from .report.conftest import RunFolder
from .test_cli import syn2co


def test_results_prints_a_table_or_writes_a_file(tmp_path: Path) -> None:
    RunFolder(tmp_path / "runs/digits-synby-3fa9c1d2").write_finished()
    RunFolder(tmp_path / "runs/stopped").write("spec.yaml", "name: stopped")
    done = syn2co("results", str(tmp_path / "runs"))
    assert done.returncode == 0
    header, row, *notes = done.stdout.splitlines()
    assert header.split()[:3] == ["run", "framework", "backbone"]
    assert "94.17" in row
    assert any("Not in the table" in note and "stopped" in note for note in notes)
    done = syn2co("results", str(tmp_path / "runs"), "--format", "csv", "--into", str(tmp_path / "t.csv"))
    assert done.stdout == f"results: {tmp_path / 't.csv'}\n"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text(encoding="utf-8"))))
    assert [row["run"] for row in rows] == ["digits-synby", ""]


def test_results_of_nothing_is_exit_3(tmp_path: Path) -> None:
    done = syn2co("results", str(tmp_path))
    assert done.returncode == 3
    assert "no run below this folder" in done.stderr


def test_ui_refuses_a_public_address_without_a_token(tmp_path: Path) -> None:
    done = syn2co("ui", str(tmp_path), "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "SYN2CO_UI_TOKEN" in done.stderr


def test_ui_serves_until_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra `ui`")
    RunFolder(tmp_path / "digits-synby-3fa9c1d2").write_finished()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-m", "syn2co_ray.cli", "ui", str(tmp_path), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert "digits-synby" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stderr == ""


def test_a_file_without_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    into = str(tmp_path / "nodir/t.tex")
    done = syn2co("results", str(tmp_path / "no run is looked for"), "--into", into)
    assert done.returncode == 2
    assert f"--into: {into}, but there is no folder" in done.stderr
