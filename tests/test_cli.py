"""The command as a user types it: what needs no cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from syn2co_ray.cli import app
from syn2co_ray.cli_shared import guarded

JOBS = Path(__file__).resolve().parents[1] / "jobs"
QUICKSTART, DIGITS = str(JOBS / "quickstart.yaml"), str(JOBS / "digits_synby.yaml")


def syn2co(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "syn2co_ray.cli", *words], capture_output=True, text=True, timeout=120
    )


def test_help_lists_the_commands_and_teaches_overrides():
    assert {"run", "plan", "validate", "schema", "report", "ingest"} <= set(syn2co("--help").stdout.split())
    told = " ".join(syn2co("run", "--help").stdout.split())
    assert "train.epochs=5" in told
    assert "resumes what was stopped" in told
    assert "Exit codes: 0 done, 2 bad spec" in told


def test_help_of_ingest_teaches_by_an_example():
    told = " ".join(syn2co("ingest", "--help").stdout.split())
    assert "s3://bucket/train-256 --shorter-side 256" in told
    assert "makes only what is missing" in told


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("submit",), "submit job.yaml train.epochs=5 --address http://127.0.0.1:8265 --working-tree --wait"),
        (("logs",), "Ctrl-C ends only the following, not the job"),
        (("stop",), "it publishes a checkpoint first"),
        (("doctor",), "--storage s3://my-bucket/runs"),
        (("cluster", "up"), "then the two printed `export` lines"),
        (("cluster", "down"), "the processes that `cluster up` started, and no others"),
    ],
)
def test_help_of_the_clusters_commands_teaches(command, says):
    assert says in " ".join(CliRunner().invoke(app, [*command, "--help"]).stdout.split())


def test_submit_tells_all_faults_of_a_job_before_it_looks_for_the_cluster():
    nobody = ("--address", "http://127.0.0.1:1")
    done = syn2co("submit", QUICKSTART, "steps.1.train.epoch=5", "steps.1.method.negatives.hardst=3", *nobody)
    assert done.returncode == 2
    assert "did you mean epochs?" in done.stderr
    assert "did you mean hardest?" in done.stderr
    for words in (("submit", DIGITS), ("logs", "-f", "a")):
        done = syn2co(*words, *nobody)
        assert done.returncode == 5
        assert "http://127.0.0.1:1: no answer: " in done.stderr
        assert done.stderr.count("\n") == 1


def test_validate_accepts_with_overrides_and_names_the_run():
    done = syn2co("validate", DIGITS, "train.epochs=5", "seed=7")
    assert done.returncode == 0
    assert "valid; its run is digits-synby-" in done.stdout
    done = syn2co("validate", QUICKSTART, "steps.1.train.epochs=5")
    assert "valid; its data set is quickstart-digits, its run is quickstart-" in done.stdout


def test_a_misspelt_key_is_exit_2_without_a_traceback():
    done = syn2co("run", QUICKSTART, "steps.1.train.epoch=5", "steps.1.method.negatives.hardst=3")
    assert done.returncode == 2
    assert "did you mean epochs?" in done.stderr
    assert "did you mean hardest?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_search_is_validated_counted_and_asked_for_its_best(tmp_path):
    search = str(JOBS / "search/digits_negatives.yaml")
    done = syn2co("validate", search, "seeds=2")
    assert "valid; its search is digits-negatives-" in done.stdout
    assert "4 points" in done.stdout
    done = syn2co("search", "best", search, f"base.storage={tmp_path}")
    assert done.returncode == 2
    assert "no finished trial" in done.stderr
    assert syn2co("search", "compare", DIGITS, "0", "1").returncode == 2
    assert "a search varies a pretrain job" in syn2co("validate", search, "space={kind: {grid: [x]}}").stderr


def test_debug_shows_the_traceback():
    assert "Traceback" in syn2co("validate", DIGITS, "train.epoch=5", "--debug").stderr


def test_schema_is_json_schema_and_resolve_is_a_job_file():
    schema = json.loads(syn2co("schema").stdout)
    assert {"if", "then", "else"} <= set(schema)
    resolved = yaml.safe_load(syn2co("resolve", DIGITS, "train.workers=1").stdout)
    assert resolved["train"]["workers"] == {"min": 1, "max": 1, "cpus_each": 1.0, "gpus_each": 0.0}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("report", DIGITS, "name=never-run"), 2, "no such run"),
        (("validate", "nothing.yaml"), 2, "examples are in jobs/"),
        (("generate", DIGITS, "--only", "a-0"), 2, "give a job that generates images"),
        (("diff", "no-such-a", "no-such-b"), 3, "holds no dataset.json"),
        (("ingest", "no-such-source", "into"), 3, "there is no such folder"),
        (("ingest", "source", "into", "--shorter-side", "4"), 2, "--shorter-side: got 4"),
    ],
)
def test_other_faults_say_what_to_do(words, code, says, tmp_path):
    done = syn2co(*words, *([f"storage={tmp_path}"] if words[0] == "report" else []))
    assert done.returncode == code
    assert says in done.stderr


def test_a_reader_that_goes_early_is_no_error(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("kind: export\nname: out\nstorage: runs\nweights: {run: runs/tiny-1234abcd}\n")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "syn2co_ray.cli", "resolve", str(job)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise BrokenPipeError("of a worker")

    with pytest.raises(typer.Exit) as caught:
        guarded(work, debug=False)
    assert caught.value.exit_code == 4
    assert "error: BrokenPipeError: of a worker" in capsys.readouterr().err
