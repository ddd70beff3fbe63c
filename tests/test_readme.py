"""What the README shows: its jobs are valid as they stand there, its commands and files exist."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import typer.main

from syn2co_ray.cli import app
from syn2co_ray.spec.load import load_job

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = [
    textwrap.dedent(block)
    for block in re.findall(r"(?:^    .+\n(?:\n(?=    ))?)+", README, flags=re.MULTILINE)
]
JOBS = [block for block in BLOCKS if block.startswith("kind: ")]


@pytest.mark.parametrize("job", JOBS, ids=[block.split()[1] for block in JOBS])
def test_a_job_of_the_readme_is_valid_as_it_stands_there(job, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(re.sub(r"^base: ", f"base: {ROOT}/jobs/", job, flags=re.MULTILINE))
    assert load_job(path).kind == job.split()[1]


def test_its_part_on_negatives_is_valid_in_a_job(tmp_path):
    (part,) = [block for block in BLOCKS if block.startswith("method:")]
    path = tmp_path / "job.yaml"
    path.write_text(f"base: {ROOT}/jobs/digits_synby.yaml\nname: negatives\ntrain: {{epochs: 120}}\n{part}")
    assert load_job(path).method.negatives.noise.sigma == 0.1


def test_every_kind_of_job_but_those_in_jobs_is_shown():
    assert {block.split()[1] for block in JOBS} == {"generate", "search", "export", "evaluate", "embed"}


def test_it_names_the_commands_that_there_are():
    named = set(re.findall(r"\bsyn2co ([a-z][a-z-]+)\b", README)) | set(re.findall(r"`([a-z]+)`", README))
    commands = set(typer.main.get_command(app).commands)
    assert commands - named == set()
    assert set(re.findall(r"`syn2co ([a-z][a-z-]+)\b", README)) - commands == set()


def test_every_file_of_the_project_that_it_names_exists():
    names = re.findall(r"`((?:jobs|cluster|tests|syn2co_ray)/[\w./*-]+)`", README)
    assert len(names) > 10
    assert [name for name in names if not list(ROOT.glob(name.rstrip("/")))] == []
