"""The log of a run: whole lines in the run's folder, in parts, without credentials, whatever the store does."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import RunLog, list_files, open_store, read_bytes, run_log
from syn2co_ray.storage.filesystem import Store
from syn2co_ray.storage.run_layout import LOGS_FOLDER
from syn2co_ray.storage.run_log import PACKAGE, PARTS_KEPT

SECRET = "canary+7f3a/not=for&logs"
log = logging.getLogger(f"{PACKAGE}.anywhere")


def lines(run: Store) -> list[dict[str, Any]]:
    folder = run.child(LOGS_FOLDER)
    return [
        json.loads(line)
        for file in list_files(folder, missing_ok=True)
        for line in read_bytes(folder, file.path).decode().splitlines()
    ]


@pytest.fixture
def run(place: str) -> Store:
    return open_store(place, ObjectStoreSpec())


def test_records_say_when_how_grave_which_run_who_and_at_which_step(run: Store) -> None:
    with run_log("rank-00003", "tiny-1234", run) as handler:
        log.info("before the first step")
        handler.step = lambda: 17
        log.warning("image %s cannot be read", "a.jpg")
        log.debug("too small a thing")
        logging.getLogger("another.package").error("not ours")
    first, second = lines(run)
    assert (first["level"], first["run"], first["process"]) == ("INFO", "tiny-1234", "rank-00003")
    assert (first["step"], first["message"]) == (None, "before the first step")
    assert (second["level"], second["step"], second["message"]) == (
        "WARNING",
        17,
        "image a.jpg cannot be read",
    )
    assert first["time"].endswith("+00:00")
    assert first["time"] <= second["time"]


def test_what_was_said_before_the_folder_was_known_is_kept(tmp_path: Path) -> None:
    run = open_store(str(tmp_path), ObjectStoreSpec())
    with run_log("driver", "tiny-1234") as handler:
        log.info("early")
        handler.publish_into(run)
        log.info("later")
    assert [line["message"] for line in lines(run)] == ["early", "later"]


def test_a_failure_carries_its_traceback(tmp_path: Path) -> None:
    run = open_store(str(tmp_path), ObjectStoreSpec())
    with run_log("driver", "tiny-1234", run):
        try:
            raise RuntimeError("on purpose")
        except RuntimeError:
            log.exception("rank 0 failed")
    (line,) = lines(run)
    assert "RuntimeError: on purpose" in line["traceback"]
    assert "test_run_log.py" in line["traceback"]


def test_long_logs_are_cut_into_parts_and_the_oldest_parts_go(tmp_path: Path) -> None:
    run = open_store(str(tmp_path), ObjectStoreSpec())
    handler = RunLog("driver", "tiny-1234", part_bytes=1000)
    handler.publish_into(run)
    for number in range(100):
        handler.handle(log.makeRecord(log.name, logging.INFO, "", 0, f"{number} {'x' * 300}", (), None))
        handler._publish()
    handler.close()
    files = list_files(run.child(LOGS_FOLDER))
    assert len(files) == PARTS_KEPT
    assert all(file.size_bytes <= 1000 for file in files)
    kept = [int(line["message"].split()[0]) for line in lines(run)]
    assert kept == list(range(kept[0], 100))
    assert kept[0] > 50


def test_a_warning_is_in_the_folder_while_the_run_goes_on(tmp_path: Path) -> None:
    run = open_store(str(tmp_path), ObjectStoreSpec())
    with run_log("driver", "tiny-1234", run) as handler:
        log.warning("soon")
        for _ in range(100):
            if lines(run):
                break
            handler._closing.wait(0.1)
        assert [line["message"] for line in lines(run)] == ["soon"]


def test_a_store_that_takes_nothing_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where the folder would be")
    with run_log("driver", "tiny-1234", open_store(str(tmp_path / "file"), ObjectStoreSpec())):
        log.error("nobody will read this")
    assert (tmp_path / "file").read_text() == "where the folder would be"


def test_two_logs_of_one_process_do_not_share_a_file_and_leave_logging_as_it_was(tmp_path: Path) -> None:
    run, logger = open_store(str(tmp_path), ObjectStoreSpec()), logging.getLogger(PACKAGE)
    before = (logger.level, list(logger.handlers))
    for number in range(2):
        with run_log("driver", "tiny-1234", run):
            log.info("start %d", number)
    assert (logger.level, list(logger.handlers)) == before
    assert [line["message"] for line in lines(run)] == ["start 0", "start 1"]
    assert len(list_files(run.child(LOGS_FOLDER))) == 2


def test_credentials_do_not_reach_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    run = open_store(str(tmp_path), ObjectStoreSpec())
    with run_log("driver", "tiny-1234", run):
        log.warning("refused: %s", SECRET)
        try:
            raise RuntimeError(f"key {SECRET} is unknown")
        except RuntimeError:
            log.exception("failed")
    text = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode()
    assert SECRET not in text
    assert text.count("[AWS_SECRET_ACCESS_KEY]") == 2
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET
