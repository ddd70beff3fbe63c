"""A job file that builds on another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.load import load_job, load_jobs
from tests.spec.test_load import MINIMAL


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_job(path)
    return [fault.render(str(path)) for fault in caught.value.faults]


def test_keys_replace_those_of_the_base_one_by_one_and_lists_as_a_whole(tmp_path):
    write(tmp_path, "base.yaml", MINIMAL)
    middle = "base: ../base.yaml\ntrain: {epochs: 7}\ndata: {train: [{uri: a}, {uri: b}]}\n"
    write(tmp_path, "some/middle.yaml", middle)
    job = load_job(write(tmp_path, "some/top.yaml", "base: middle.yaml\nname: top\n"), ["seed=9"])
    assert (job.name, job.seed, job.train.epochs, job.train.images_per_step_global) == ("top", 9, 7, 64)
    assert [source.uri for source in job.data.train] == ["a", "b"]
    assert job.method.negatives.hardest == 16


def test_a_fault_names_the_file_it_is_in(tmp_path):
    base = write(tmp_path, "base.yaml", MINIMAL.replace("epochs: 10", "epochs: ten"))
    top = write(tmp_path, "top.yaml", "base: base.yaml\nseed: 2\nmethod:\n  temprature: 0.1\n")
    in_base, in_top = sorted(faults(top))
    assert in_base.startswith(f"{base}:16: train.epochs: got 'ten'")
    assert in_top.startswith(f"{top}:4: method.temprature: unknown key")


def test_a_base_that_is_missing_or_goes_in_a_circle_is_one_fault(tmp_path):
    lost = write(tmp_path, "lost.yaml", "base: nothing.yaml\n")
    (message,) = faults(lost)
    assert "No such file" in message
    assert f"mend `base` in {lost}" in message
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    (message,) = faults(write(tmp_path, "b.yaml", "base: a.yaml\n"))
    assert "base: b.yaml builds on this file again" in message
    (message,) = faults(write(tmp_path, "c.yaml", "base: [a.yaml]\n"))
    assert "c.yaml:1: base: got ['a.yaml']; allowed: the path of another job file" in message


def test_several_files_show_all_their_faults_and_need_names_of_their_own(tmp_path):
    good = write(tmp_path, "good.yaml", MINIMAL)
    bad = write(tmp_path, "bad.yaml", "base: good.yaml\nname: bad\nseeds: 1\n")
    with pytest.raises(SpecError, match="2 jobs are called tiny") as caught:
        load_jobs([good, bad, good])
    assert f"{bad}:3: seeds: unknown key" in str(caught.value)
    assert [job.seed for job in load_jobs([good])] == [1]
