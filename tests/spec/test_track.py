"""Section `track`: no effect on a run's identity, its libraries, and no secrets."""

from __future__ import annotations

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.identity import spec_hash
from syn2co_ray.spec.load import load_text
from syn2co_ray.spec.rules import track as rules

from .test_load import MINIMAL

ALL = "track={tensorboard: true, mlflow: {tracking_uri: 'http://127.0.0.1:5000'}, wandb: {project: digits}}"


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(rules, "find_spec", lambda name: object())


def faults(*overrides: str) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        load_text(MINIMAL, overrides)
    return {fault.where: fault.render("job.yaml") for fault in caught.value.faults}


@pytest.mark.usefixtures("installed")
def test_trackers_do_not_change_which_run_it_is():
    assert spec_hash(load_text(MINIMAL, [ALL])) == spec_hash(load_text(MINIMAL))
    assert load_text(MINIMAL, [ALL]).track.libraries == ["tensorboard", "mlflow", "wandb"]
    assert load_text(MINIMAL, ["track={tensorboard: false}"]).track.libraries == []


def test_a_missing_library_is_a_fault_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(rules, "find_spec", lambda name: None if name == "wandb" else object())
    found = faults(ALL)
    assert list(found) == ["track.wandb"]
    assert "pip install 'syn2co_ray[track]'" in found["track.wandb"]


@pytest.mark.usefixtures("installed")
def test_an_address_with_a_password_is_refused_and_not_repeated():
    found = faults("track={mlflow: {tracking_uri: 'https://me:secret@mlflow.example'}}")
    assert "MLFLOW_TRACKING_USERNAME" in found["track.mlflow.tracking_uri"]
    assert "secret" not in found["track.mlflow.tracking_uri"]


@pytest.mark.usefixtures("installed")
def test_offline_runs_need_a_local_folder():
    offline = "track={wandb: {project: digits, mode: offline}}"
    assert "track.wandb.mode" in faults(offline, "storage=s3://bucket/runs")
    assert load_text(MINIMAL, [offline, "storage=file:///runs"]).track.wandb.mode == "offline"
    assert load_text(MINIMAL, [offline, "storage=runs"]).track.wandb.mode == "offline"
