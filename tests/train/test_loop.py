"""The loop: worker-count law, exact resume, bad numbers, bad images. Real data, real stream, no Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from syn2co_ray.spec.errors import CheckpointError, DataError, TrainingError
from syn2co_ray.spec.identity import spec_hash
from syn2co_ray.storage import open_store
from syn2co_ray.train import trainer as trainer_module
from syn2co_ray.train.checkpoint import load_newest
from syn2co_ray.train.checkpoint_files import complete_steps

from .gloo_ranks import run_ranks
from .local_run import local_loop, prepared, tiny_job

pytestmark = pytest.mark.usefixtures("one_thread")


def rank_of_tiny_run(
    rank: int, world_size: int, group: Any, folder: Path
) -> tuple[dict[int, float], dict[int, list]]:
    keys: dict[int, list[str]] = {}
    # Gentle steps: at larger ones rounding moves entries into and out of pools, and the curves part.
    run = prepared(folder / f"rank-{rank}-of-{world_size}", "train.optimizer.learning_rate_base=0.004")
    loop = local_loop(run, rank=rank, world_size=world_size, control_group=group, keys_seen=keys.__setitem__)
    loop.run_to_end()
    return loop.losses, keys  # type: ignore[attr-defined]


def test_one_worker_and_two_give_the_same_keys_and_loss_curve_for_20_steps(tmp_path):
    ((losses_1, keys_1),) = run_ranks(rank_of_tiny_run, 1, tmp_path, tmp_path)
    (losses_2, left), (_, right) = run_ranks(rank_of_tiny_run, 2, tmp_path, tmp_path)
    assert len(losses_1) == len(losses_2) == 20
    assert {step: left[step] + right[step] for step in left} == keys_1
    assert losses_1[20] < losses_1[1]
    np.testing.assert_allclose(list(losses_2.values()), list(losses_1.values()), rtol=1e-5)


def whole_state(loop: Any) -> dict[str, torch.Tensor]:
    state = loop.trainer.state({})
    return {**state.method, **{f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()}}


@pytest.mark.parametrize("stop_at", [3, 5, 12])
def test_stopped_and_resumed_equals_uninterrupted_exactly(tmp_path, stop_at):
    straight = local_loop(prepared(tmp_path / "straight"))
    assert straight.run_to_end().status == "finished"
    first = local_loop(prepared(tmp_path / "stopped"), stop_before_step=stop_at)
    assert first.run_to_end().status == "interrupted"
    second = local_loop(prepared(tmp_path / "stopped"))
    outcome = second.run_to_end()
    assert outcome.resumed_from_steps == [stop_at]
    assert {**first.losses, **second.losses} == straight.losses
    expected, got = whole_state(straight), whole_state(second)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_resume_reads_only_the_windows_that_remain(tmp_path, monkeypatch):
    local_loop(prepared(tmp_path), stop_before_step=9).run_to_end()
    from syn2co_ray.data import stream as stream_module

    windows: list[int] = []
    read = stream_module.read_window
    monkeypatch.setattr(stream_module, "read_window", lambda s, n: windows.append(n) or read(s, n))
    run = prepared(tmp_path)
    local_loop(run).run_to_end()
    assert windows == list(range(run.plan.window_of_step(9), run.plan.total_windows))


def test_metrics_of_a_resumed_run_hold_every_step_once(tmp_path):
    local_loop(prepared(tmp_path), stop_before_step=7).run_to_end()
    run = prepared(tmp_path)
    local_loop(run).run_to_end()
    rows = []
    for path in sorted(Path(run.run.store.path).glob("metrics/steps-*.jsonl")):
        rows += [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert all(row["loss"] > 0 and 0 <= row["data_wait_share"] <= 1 for row in rows)
    directions = [rows[0]["stats"][f"loss/view_{number}"] for number in (1, 2)]
    assert sum(directions) == pytest.approx(rows[0]["loss"])


def test_a_non_finite_step_trains_nothing_and_is_counted(tmp_path):
    """The target has moved before the loss is known: towards online networks that it still equals here."""
    run = prepared(tmp_path)
    loop = local_loop(run)
    loop._resume()
    records = loop.context.records(0)
    method = loop.trainer.method
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    spoilt = method.predictor.register_forward_hook(lambda *called: called[-1] * torch.nan)
    batch = next(records)
    outcome = loop.trainer.train_step(batch, loop.trainer.labels(batch))
    spoilt.remove()
    assert outcome.skipped
    changed = {name for name, tensor in method.state_dict().items() if not torch.equal(tensor, before[name])}
    assert all(name.startswith(("target_", "momentum.")) for name in changed)
    for name in changed & {name for name in before if name.startswith("target_")}:
        torch.testing.assert_close(method.state_dict()[name], before[name])


def test_collapsed_embeddings_are_warned_of_once_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "TELEMETRY_EVERY_STEPS", 1)
    run = prepared(
        tmp_path, "train.optimizer.learning_rate_base=1e-9", "train.optimizer.learning_rate_min_base=0"
    )
    sound = local_loop(run, stop_before_step=5)
    assert sound.run_to_end().warnings == []
    collapsed = local_loop(prepared(tmp_path / "other"), stop_before_step=8)
    shown = []
    collapsed.context.show = shown.append
    last = collapsed.trainer.method.predictor[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(1.0)
    monkeypatch.setattr(collapsed.trainer.optimizer, "step", lambda: None)  # it would recover by training
    outcome = collapsed.run_to_end()
    (warning,) = outcome.warnings
    assert "collapsed at step 3" in warning
    assert "lower the learning rate" in warning
    assert [row for row in shown if "warning" in row] == [{"warning": warning}]
    assert outcome.step == 8


def test_too_many_non_finite_steps_stop_the_run_and_keep_the_last_good_checkpoint(tmp_path):
    run = prepared(tmp_path, "train.nonfinite_steps_max=2", "train.optimizer.learning_rate_base=1e30")
    with pytest.raises(TrainingError, match=r"not finite in 3 steps in a row.*learning_rate_base"):
        local_loop(run).run_to_end()
    checkpoint, rejected = load_newest(run.run.store, spec_hash(run.job))
    assert rejected == []
    if checkpoint is not None:
        assert all(torch.isfinite(t).all() for t in checkpoint.method.values() if t.is_floating_point())


def test_truncated_checkpoint_is_passed_over_for_the_newest_whole_one_and_said_so(tmp_path):
    run = prepared(tmp_path)
    local_loop(run, stop_before_step=12).run_to_end()
    assert complete_steps(run.run.store) == [5, 10, 12]
    broken = Path(run.run.store.path) / "checkpoints/step-000000012/method.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    loop = local_loop(prepared(tmp_path))
    outcome = loop.run_to_end()
    assert outcome.resumed_from_steps == [10]
    assert any("step-000000012" in note and "do not match its checksum" in note for note in outcome.notes)


def test_checkpoint_without_manifest_does_not_count(tmp_path):
    run = prepared(tmp_path)
    local_loop(run, stop_before_step=6).run_to_end()
    (Path(run.run.store.path) / "checkpoints/step-000000006/MANIFEST.json").unlink()
    checkpoint, rejected = load_newest(run.run.store, spec_hash(run.job))
    assert checkpoint.step == 5
    assert "has no manifest" in rejected[0]


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run = prepared(tmp_path, "train.checkpoint.every_steps=2", "train.checkpoint.keep=2")
    local_loop(run).run_to_end()
    assert complete_steps(run.run.store) == [18, 20]


def test_checkpoint_of_another_spec_is_refused(tmp_path):
    run = prepared(tmp_path)
    local_loop(run, stop_before_step=5).run_to_end()
    with pytest.raises(CheckpointError, match=r"belongs to spec .* use another name or storage"):
        load_newest(run.run.store, spec_hash(tiny_job(tmp_path, "seed=4")))


def spoil(folder: Path, share: float) -> None:
    """Rewrite the train shards with some images cut in half, as a bad copy leaves them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    for path in sorted(Path(folder, "digits/train").glob("*.parquet")):
        table = pq.read_table(path)
        images = []
        for image in table["image"].to_pylist():
            number += 1
            images.append(image[: len(image) // 2] if number % round(1 / share) == 0 else image)
        column = table.schema.get_field_index("image")
        table = table.set_column(
            column, table.schema.field(column), pa.array(images, table.schema.field(column).type)
        )
        pq.write_table(table, path, row_group_size=64)


def test_unreadable_images_are_replaced_counted_and_listed(tmp_path):
    prepared(tmp_path)
    spoil(tmp_path, 1 / 150)
    run = prepared(tmp_path, "data.quarantine_share_max=0.05", "name=spoilt", "data.prepare=[]")
    keys: dict[int, list[str]] = {}
    outcome = local_loop(run, keys_seen=keys.__setitem__).run_to_end()
    assert outcome.status == "finished"
    assert {len(k) for k in keys.values()} == {32}
    listed = [
        json.loads(line) for line in (Path(run.run.store.path) / "quarantine.jsonl").read_text().splitlines()
    ]
    assert 0 < len(listed) <= outcome.quarantined_images
    assert all(entry["reason"] and entry["source"].endswith("digits/train") for entry in listed)
    trained = {key for step in keys.values() for key in step}
    assert not trained & {entry["key"] for entry in listed}
    again: dict[int, list[str]] = {}
    other = prepared(tmp_path, "data.quarantine_share_max=0.05", "name=spoilt-again", "data.prepare=[]")
    local_loop(other, keys_seen=again.__setitem__).run_to_end()
    assert again == keys


def test_too_many_unreadable_images_stop_the_run(tmp_path):
    prepared(tmp_path)
    spoil(tmp_path, 1 / 10)
    with pytest.raises(
        DataError, match=r"images could not be read .*quarantine_share_max = 1.0%.*quarantine.jsonl"
    ):
        local_loop(prepared(tmp_path, "name=spoilt", "data.prepare=[]")).run_to_end()


def test_no_readable_image_at_all_is_said_at_once(tmp_path):
    prepared(tmp_path)
    spoil(tmp_path, 1.0)
    with pytest.raises(DataError, match=r"none of 64 images drawn from it can be decoded"):
        local_loop(prepared(tmp_path, "name=spoilt", "data.prepare=[]", "data.eval=null")).run_to_end()


def test_files_added_after_the_start_do_not_change_the_plan_of_a_run(tmp_path):
    run = prepared(tmp_path)
    shards = sorted(Path(tmp_path, "digits/train").glob("*.parquet"))
    Path(tmp_path, "digits/train/zzz.parquet").write_bytes(shards[0].read_bytes())
    again = prepared(tmp_path)
    assert again.stream.indexes[0].fingerprint == run.stream.indexes[0].fingerprint
    assert again.stream.indexes[0].files == run.stream.indexes[0].files


def test_run_folder_of_another_spec_is_never_written_into(tmp_path):
    run = prepared(tmp_path)
    provenance = Path(run.run.store.path) / "provenance.json"
    provenance.write_text(provenance.read_text().replace(spec_hash(run.job), "0" * 64))
    from syn2co_ray.spec.errors import SpecError

    with pytest.raises(SpecError, match="holds a run of spec 000000000000"):
        prepared(tmp_path)
    assert open_store(str(tmp_path), run.job.object_store).path


DDPM = """\
kind: train_generator
name: tiny-ddpm
seed: 3
storage: {folder}/runs
into: {folder}/pipeline
data:
  prepare: [{{dataset: digits, into: {folder}/digits}}]
  train: [{{uri: {folder}/digits/train}}]
  window_images: 128
  images_per_epoch: 160
augment: {{recipe: plain, image_size: 8, flip_probability: 0}}
method: {{framework: ddpm, block_channels: [8, 16], layers_per_block: 1}}
train:
  images_per_step_global: 32
  epochs: 4
  optimizer: {{learning_rate_base: 0.05, warmup_epochs: 1, weight_decay: 0}}
"""


def rank_of_ddpm_run(rank: int, world_size: int, group: Any, folder: Path) -> dict[int, float]:
    run = prepared(folder / f"rank-{rank}-of-{world_size}", text=DDPM)
    loop = local_loop(run, rank=rank, world_size=world_size, control_group=group)
    loop.run_to_end()
    return loop.losses  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_generator_learns_the_same_with_one_worker_and_two_and_when_resumed(tmp_path):
    (alone,) = run_ranks(rank_of_ddpm_run, 1, tmp_path, tmp_path)
    both, _ = run_ranks(rank_of_ddpm_run, 2, tmp_path, tmp_path)
    np.testing.assert_allclose(list(both.values()), list(alone.values()), rtol=1e-5)
    assert np.mean(list(alone.values())[-5:]) < 0.7 * alone[1]
    first = local_loop(prepared(tmp_path / "stopped", text=DDPM), stop_before_step=7)
    first.run_to_end()
    second = local_loop(prepared(tmp_path / "stopped", text=DDPM))
    second.run_to_end()
    assert {**first.losses, **second.losses} == alone
