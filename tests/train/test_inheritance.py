"""A run goes on where another run is: same tensors, same position, other values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from syn2co_ray.spec.errors import CheckpointError
from syn2co_ray.spec.identity import run_name, spec_hash
from syn2co_ray.spec.job import TrainingSpec
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store, publish_bytes, read_bytes
from syn2co_ray.submit.prepare import PreparedRun
from syn2co_ray.train.checkpoint import Checkpoint, load_newest
from syn2co_ray.train.checkpoint_files import (
    METHOD,
    OPTIMIZER,
    STATE,
    complete_steps,
    newest_whole,
    publish_checkpoint,
)
from syn2co_ray.train.inheritance import hand_over
from syn2co_ray.train.loop import TrainLoop

from . import local_run
from .local_run import TINY, local_loop

STEPS = 5  # of an epoch
TEXT = TINY.replace("knn: {{neighbours", "knn: {{every_epochs: 2, neighbours")


def tiny_job(folder: Path, *overrides: str) -> TrainingSpec:
    return local_run.tiny_job(folder, *overrides, text=TEXT)


def prepared(folder: Path, *overrides: str) -> PreparedRun:
    return local_run.prepared(folder, *overrides, text=TEXT)


def figures(*args: Any) -> dict[str, Any]:
    return {"knn": {"5": 40.0}}


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainLoop]:
    """A run that stopped after two of four epochs."""
    folder = tmp_path_factory.mktemp("donor")
    loop = local_loop(prepared(folder), stop_after_epochs=2, evaluate=figures)
    assert loop.run_to_end().status == "interrupted"
    return folder, loop


def newest(folder: Path, *overrides: str) -> Checkpoint:
    job = tiny_job(folder, *overrides)
    run = open_store(job.storage, ObjectStoreSpec()).child(run_name(job))
    found, rejected = load_newest(run, spec_hash(job))
    assert found is not None
    assert not rejected
    return found


def heir(folder: Path, *overrides: str, **options: Any) -> TrainLoop:
    hand_over(tiny_job(folder), tiny_job(folder, *overrides), 2)
    return local_loop(prepared(folder, *overrides), **options)


def assert_same(ours: Checkpoint, theirs: Checkpoint) -> None:
    for part in ("method", "optimizer"):
        mine, other = getattr(ours, part), getattr(theirs, part)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_run_that_stops_after_an_epoch_leaves_the_checkpoint_of_its_last_step(donor: Any) -> None:
    folder, loop = donor
    assert loop.step == 2 * STEPS == newest(folder).step


def test_an_heir_has_the_donors_networks_queues_optimizer_and_position(donor: Any) -> None:
    folder, _ = donor
    values = ("name=other", "train.optimizer.learning_rate_base=0.005")
    loop = heir(folder, *values, stop_after_epochs=2)
    first, theirs = newest(folder, *values), newest(folder)
    assert_same(first, theirs)
    assert any(name.startswith("queue_1.features") for name in first.method)
    assert first.method["queue_1.pointer"] == theirs.method["queue_1.pointer"] != 0
    assert first.step == 2 * STEPS
    assert first.state["images_seen"] == theirs.state["images_seen"] > 0
    assert first.state["spec"]["train"]["optimizer"]["learning_rate_base"] == 0.005
    # Nothing is left to do: it ends where it begins.
    outcome = loop.run_to_end()
    assert (outcome.status, outcome.step, loop.losses) == ("interrupted", 2 * STEPS, {})


def test_an_heir_with_the_same_values_trains_as_the_donor_does_and_others_train_otherwise(
    donor: Any,
) -> None:
    folder, _ = donor
    twin, other = heir(folder, "name=twin"), heir(folder, "name=warmer", "method.temperature=0.4")
    twin.run_to_end()
    other.run_to_end()
    straight = local_loop(prepared(folder, "name=straight"))
    straight.run_to_end()
    assert list(twin.losses) == list(range(2 * STEPS + 1, 4 * STEPS + 1))
    assert twin.losses == {step: straight.losses[step] for step in twin.losses}
    assert all(other.losses[step] != straight.losses[step] for step in twin.losses)
    assert other.digests == twin.digests  # the same images
    assert_same(newest(folder, "name=twin"), newest(folder, "name=straight"))


def test_a_run_says_from_where_it_was_taken_over_also_after_it_went_on(donor: Any) -> None:
    folder, _ = donor
    values = ("name=third", "train.optimizer.weight_decay=0.01")
    heir(folder, *values, evaluate=figures, stop_after_epochs=3).run_to_end()
    job = tiny_job(folder, *values)
    run = folder / "runs" / run_name(job)
    origin = {
        "run": run_name(tiny_job(folder)),
        "spec_hash": spec_hash(tiny_job(folder)),
        "step": 10,
        "epoch": 2,
    }
    assert json.loads((run / "provenance.json").read_text())["inherited_from"] == [origin]
    assert newest(folder, *values).state["inherited_from"] == [origin]
    # The donor's evaluation of these weights.
    assert sorted(path.name for path in (run / "metrics").glob("eval-*")) == ["eval-000000010.json"]
    donors = folder / "runs" / run_name(tiny_job(folder))
    assert (run / "index" / "train-0.index").read_bytes() == (donors / "index" / "train-0.index").read_bytes()
    hand_over(job, tiny_job(folder, "name=fourth"), 3)
    chain = newest(folder, "name=fourth").state["inherited_from"]
    assert [(each["run"], each["step"]) for each in chain] == [(origin["run"], 10), (run_name(job), 15)]


def test_what_has_a_checkpoint_is_left_as_it_is(donor: Any) -> None:
    folder, _ = donor
    heir(folder, "name=fifth", stop_after_epochs=3).run_to_end()
    hand_over(tiny_job(folder), tiny_job(folder, "name=fifth"), 2)
    assert newest(folder, "name=fifth").step == 3 * STEPS


def test_a_checkpoint_of_another_epoch_is_no_inheritance(donor: Any) -> None:
    folder, _ = donor
    with pytest.raises(CheckpointError, match="is after 0 epochs; allowed: one after 1 epochs"):
        hand_over(tiny_job(folder, "name=nobody"), tiny_job(folder, "name=sixth"), 1)
    job = tiny_job(folder, "name=sixth")
    assert complete_steps(open_store(job.storage, ObjectStoreSpec()).child(run_name(job))) == []


def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path: Path) -> None:
    every = "evaluate.knn.every_epochs=1"

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local_loop(prepared(tmp_path, every), evaluate=killed).run_to_end()
    again = local_loop(prepared(tmp_path, every), stop_after_epochs=1, evaluate=figures)
    again.run_to_end()
    rows = [json.loads(path.read_text()) for path in tmp_path.rglob("eval-*.json")]
    assert [(row["step"], row["epoch"]) for row in rows] == [(STEPS, 1)]
    assert again.losses == {}


def test_checkpoints_are_handed_over_in_any_store_without_being_trained_there(
    place: str, tmp_path: Path
) -> None:
    donor, heir = (tiny_job(tmp_path, f"name={name}", f"storage={place}") for name in ("donor", "heir"))
    theirs, ours = (open_store(place, ObjectStoreSpec()).child(run_name(job)) for job in (donor, heir))
    state = {
        "step": 10,
        "epoch": 2,
        "spec_hash": spec_hash(donor),
        "clock": {"steps": 9.0},
        "quarantined": [],
    }
    files = {METHOD: b"networks and queues", OPTIMIZER: b"moments", STATE: json.dumps(state).encode()}
    publish_checkpoint(theirs, 10, files, keep=3)
    publish_bytes(theirs.child("index"), "train-0.index", b"rows")
    hand_over(donor, heir, 2)
    step, found, rejected = newest_whole(ours, spec_hash(heir))
    assert (step, rejected) == (10, [])
    assert (found[METHOD], found[OPTIMIZER]) == (files[METHOD], files[OPTIMIZER])
    assert json.loads(found[STATE])["clock"] == {}
    assert read_bytes(ours.child("index"), "train-0.index") == b"rows"
    assert newest_whole(theirs, spec_hash(donor))[1] == files
