"""How Ray Train's workers get the plan's stream at every start."""

from __future__ import annotations

from typing import Any

import ray
import ray.data
import ray.train

from ..augment.actor import ViewActor, actor_arguments
from ..data.stream import ViewStage, rank_streams, window_dataset
from ..spec.identity import spec_hash
from ..spec.job import TrainingSpec
from .checkpoint_files import newest_whole
from .run_folder import RunFolder


class RemainingWindows:
    """Called by Ray Train at every (re)start of the workers: the windows after the newest checkpoint."""

    def __init__(self, job: TrainingSpec, run: RunFolder, plan: Any, board: Any) -> None:
        self.job, self.run, self.plan, self.board = job, run, plan, board

    def __call__(self) -> ray.data.Dataset:
        first_step, _, _ = newest_whole(self.run.store, spec_hash(self.job))
        ray.get(self.board.begin.remote(first_step))
        return window_dataset(self.plan, first_step)


class PlanFeed(ray.train.DataConfig):
    """Cuts the windows into blocks for the world size that this start has.

    Ray Train's own splitting knows neither the plan nor the step to start at, so it is replaced as a
    whole; locality hints would let blocks overtake one another and are not used.
    """

    def __init__(self, job: TrainingSpec, stream_ref: Any, board: Any) -> None:
        super().__init__()
        self.job, self.boxed, self.board = job, [stream_ref], board

    def configure(
        self, datasets: dict[str, ray.data.Dataset], world_size: int, *args: Any, **kwargs: Any
    ) -> list[dict[str, ray.data.DataIterator]]:
        job = self.job
        streams = rank_streams(
            datasets["train"],
            self.boxed[0],
            first_step=ray.get(self.board.position.remote()),
            world_size=world_size,
            reader_cpus_each=job.data.reader_cpus_each,
            views=view_stage(job, self.boxed),
        )
        return [{"train": stream} for stream in streams]


def view_stage(job: TrainingSpec, boxed: list[Any]) -> ViewStage | None:
    """The actors that make views; None where the workers make their own."""
    if job.augment.placement == "trainer":
        return None
    return ViewStage(ViewActor, actor_arguments(job, boxed), job.augment.actors)
