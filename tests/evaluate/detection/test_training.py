"""Training of a detector: it learns, and stopped and resumed it is the same bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from syn2co_ray.evaluate.detection.network import build_detector
from syn2co_ray.evaluate.detection.ranks import Stopped
from syn2co_ray.evaluate.detection.sets import read_sets
from syn2co_ray.evaluate.detection.training import DetectorTraining, Progressed, rate_at
from syn2co_ray.methods.backbones import build_backbone
from syn2co_ray.methods.draws import seeded_initialisation
from syn2co_ray.spec.errors import CheckpointError, DataError, TrainingError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store
from syn2co_ray.train.context import TrainContext
from syn2co_ray.train.wish import Wish

from ...train.gloo_ranks import run_ranks
from .drawn import small_detection, tiny_vit, write_coco

STORE = ObjectStoreSpec()


class Job:
    """One training in a folder."""

    def __init__(self, tmp_path: Path, **changes: Any) -> None:
        train = write_coco(tmp_path / "train", "a", range(3))
        held_out = write_coco(tmp_path / "eval", "b", range(10, 12))
        self.spec = small_detection(train, held_out, **changes)
        self.train, _, _ = read_sets(self.spec, STORE)
        self.folder = tmp_path

    def network(self) -> Any:
        if self.spec.neck in ("fpn", "c4"):
            with seeded_initialisation(0, "tiny"):
                return build_backbone("resnet18", 96)
        return tiny_vit()

    def run(self, place: str, stop_at: int | None = None, identity: str = "x") -> tuple[Any, Progressed]:
        seen: list[int] = []
        alone = TrainContext(0, 1, torch.device("cpu"))
        alone.show = lambda row: seen.append(row.get("step", 0))
        alone.wish = lambda: Wish.STOP if stop_at is not None and max(seen) >= stop_at else Wish.GO_ON
        return self.run_as(alone, place, identity)

    def run_as(self, ranks: TrainContext, place: str, identity: str = "x") -> tuple[Any, Progressed]:
        detector = build_detector(self.network(), 2, self.spec, 0)
        store = open_store(str(self.folder / place), STORE)
        done = DetectorTraining(detector, self.train, self.spec, 7, ranks, store, identity).run()
        return detector.state_dict(), done


def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    job = Job(tmp_path, masks=True, images_per_step=1)
    whole, done = job.run("whole")
    assert (done.step, done.total) == (6, 6)
    with pytest.raises(Stopped):
        job.run("parts", stop_at=4)
    # The next one starts in the middle of the second epoch.
    parts, resumed = job.run("parts")
    assert resumed.step == 6
    assert resumed.loss == done.loss
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(CheckpointError, match="belongs to spec"):
        job.run("parts", identity="another")


CASES: dict[str, tuple[dict[str, Any], float]] = {
    # The second step of an epoch leaves one of two ranks without an image.
    "a ViT with masks": ({"masks": True, "images_per_step": 2}, 1e-4),
    "batch norms": ({"neck": "c4", "images_per_step": 3, "epochs": 2}, 1e-3),
}
"""Detection of three images, and the relative error allowed."""


def trained(folder: Path, case: str, ranks: TrainContext, place: str) -> tuple[dict[str, Any], list[float]]:
    """State, and losses on rank 0."""
    # AdamW's first steps divide a gradient by its own size: of one near 0 a small rate keeps rounding small.
    job, losses = Job(folder, **CASES[case][0], learning_rate=1e-4), []
    if ranks.rank == 0:
        ranks.show = lambda row: losses.append(row["loss"]) if "loss" in row else None
    state, _ = job.run_as(ranks, f"{place}-{case}")
    return {name: tensor.numpy() for name, tensor in state.items()}, losses


def one_of_two(rank: int, world_size: int, group: Any, folder: Path, case: str) -> Any:
    return trained(
        folder, case, TrainContext(rank, world_size, torch.device("cpu"), control_group=group), "two"
    )


@pytest.mark.parametrize(
    "case",
    # Batch norms exchange hundreds of small messages, which gloo takes a minute for.
    ["a ViT with masks", pytest.param("batch norms", marks=pytest.mark.slow)],
)
def test_two_ranks_train_as_one_does(tmp_path: Path, case: str) -> None:
    (theirs, their_losses), (others, _) = run_ranks(one_of_two, 2, tmp_path, tmp_path, case)
    state, losses = trained(tmp_path, case, TrainContext(0, 1, torch.device("cpu")), "one")
    error = CASES[case][1]
    assert len(losses) == len(set(losses)) > 1
    assert their_losses == pytest.approx(losses, rel=error)
    for name, values in state.items():
        assert (theirs[name] == others[name]).all(), name
        assert theirs[name] == pytest.approx(values, abs=error, rel=error), name


def test_unreadable_images_are_left_out_up_to_a_limit(tmp_path: Path) -> None:
    job = Job(tmp_path, epochs=1, left_out_share_max=0.4)
    (tmp_path / "train/images/2.png").write_bytes(b"\x89PNG\r\n\x1a\nx")
    _, done = job.run("one")
    assert list(done.unreadable) == ["2.png"]
    (tmp_path / "train/images/1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 3 images cannot be used, such as .*left_out_share_max"):
        job.run("two")


def test_a_loss_that_is_not_finite_ends_it_with_its_parts(tmp_path: Path) -> None:
    job = Job(tmp_path, learning_rate=1e30)
    with pytest.raises(TrainingError, match="lower detection.learning_rate"):
        job.run("diverged")


def test_rate_rises_over_a_tenth_of_the_steps_and_falls_to_0() -> None:
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 1e-3


@pytest.mark.slow
def test_drawn_squares_and_discs_are_found_after_some_minutes(tmp_path: Path) -> None:
    """The whole way learns: boxes and masks of shapes on images it has not seen."""
    from syn2co_ray.evaluate.detection.measuring import measure_detector

    train = write_coco(tmp_path / "train", "a", range(64))
    held_out = write_coco(tmp_path / "eval", "b", range(100, 116))
    spec = small_detection(train, held_out, masks=True, epochs=12, images_per_step=4)
    found = read_sets(spec, STORE)[:2]
    measured = measure_detector(
        "tiny",
        tiny_vit(),
        found,
        spec,
        0,
        TrainContext(0, 1, torch.device("cpu")),
        open_store(str(tmp_path), STORE),
        "x",
    )
    assert measured is not None
    assert measured.row["box"]["ap50"] > 60
    assert measured.row["mask"]["ap50"] > 60
