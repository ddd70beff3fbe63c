"""What one rank alone meets ends all of them, with its error: none waits until a collective times out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.spec.errors import DataError, StorageError
from syn2co_ray.train.wish import Wish
from tests.methods.gloo_ranks import TRAINED

from .gloo_ranks import run_ranks
from .local_run import local_loop, prepared
from .test_wishes import wishing


def fault_of_a_rank(
    rank: int, world_size: int, group: Any, folder: Path, broken_at: int, wishes: dict[int, Wish]
) -> str:
    """What a rank ends with when rank 0 alone can write no checkpoints from a step on."""
    run = prepared(folder / f"rank-{rank}")
    loop = local_loop(run, rank=rank, world_size=world_size, control_group=group)

    def break_store(step: int, keys: list[str]) -> None:
        if rank == 0 and step == broken_at:
            checkpoints = Path(run.run.store.uri) / "checkpoints"
            if checkpoints.exists():
                checkpoints.rename(folder / "away")
            checkpoints.write_text("no folder")

    loop.context.keys_seen = break_store
    if rank == 0:
        wishing(loop, wishes)
    with pytest.raises(StorageError) as caught:
        loop.run_to_end()
    return str(caught.value)


@pytest.mark.parametrize(
    ("broken_at", "wishes"),
    [(2, {}), (2, {3: Wish.PAUSE}), (19, {})],
    ids=["within", "before a pause", "at the end"],
)
def test_all_ranks_end_with_a_fault_that_one_of_them_alone_meets(tmp_path, broken_at, wishes):
    first, second = run_ranks(fault_of_a_rank, 2, tmp_path, tmp_path, broken_at, wishes)
    assert first == second
    assert "rank-0" in first
    assert "it is a file, not a folder" in first


def label_of_a_rank(rank: int, world_size: int, group: Any, folder: Path) -> str:
    """What a rank of a supervised run ends with when rank 1 alone meets a record without a label."""
    method = json.dumps(TRAINED["supervised"] | {"classes": 10})
    run = prepared(folder / f"rank-{rank}", f"method={method}")
    loop = local_loop(run, rank=rank, world_size=world_size, control_group=group)
    records = loop.context.records

    def unlabelled(first_step: int) -> Any:
        for step in records(first_step):
            if rank == 1 and step.step == 2:
                step.labels[0] = None
            yield step

    loop.context.records = unlabelled
    with pytest.raises(DataError) as caught:
        loop.run_to_end()
    return str(caught.value)


def test_all_ranks_end_with_the_label_that_one_of_them_lacks(tmp_path):
    first, second = run_ranks(label_of_a_rank, 2, tmp_path, tmp_path)
    assert first == second
    assert "no label" in first
    assert "one of the 10 classes" in first
