"""Batches, workers, schedules, sources and their shares."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..augment import AugmentSpec
from ..base import Pool
from ..data import DataSpec
from ..errors import Fault
from ..evaluate import EvaluateSpec
from ..source import ShareSchedule, share_in
from ..train import TrainSpec
from .registry import rule


def worker_counts_allowed(train: TrainSpec) -> list[int]:
    """Worker counts from min to max that split the global batch evenly."""
    counts = range(train.workers.min, train.workers.max + 1)
    return [count for count in counts if train.images_per_step_global % count == 0]


@rule
def pools_are_ranges(train: TrainSpec, augment: AugmentSpec) -> Iterator[Fault]:
    yield from pool_faults("train.workers", train.workers)
    yield from pool_faults("augment.actors", augment.actors)


def pool_faults(where: str, pool: Pool) -> Iterator[Fault]:
    """A pool has a smallest and a largest size."""
    if pool.min > pool.max:
        yield Fault(where, f"min {pool.min} is more than max {pool.max}", "min <= max", "swap them")


@rule
def gpus_can_be_given(train: TrainSpec, augment: AugmentSpec) -> Iterator[Fault]:
    yield from gpu_faults_of_workers("train.workers", train.workers)
    yield from gpus_of_pool("augment.actors", augment.actors)


def gpu_faults_of_workers(where: str, workers: Pool) -> Iterator[Fault]:
    """As `gpus_of_pool`, and no two workers on one GPU."""
    yield from gpus_of_pool(where, workers)
    if workers.max > 1 and 0 < workers.gpus_each <= 0.5:
        yield Fault(
            f"{where}.gpus_each",
            f"{workers.gpus_each:g} with {workers.max} workers: two could share a GPU, which NCCL refuses",
            "more than 0.5, or 0",
            "use 0.75 and leave 0.25 to an augmentation actor, or 1 worker",
        )


def gpus_of_pool(where: str, pool: Pool) -> Iterator[Fault]:
    """Ray gives a fraction of one GPU, or whole ones."""
    if pool.gpus_each > 1 and pool.gpus_each != int(pool.gpus_each):
        below, above = int(pool.gpus_each), int(pool.gpus_each) + 1
        yield Fault(
            f"{where}.gpus_each", f"{pool.gpus_each:g}", "whole numbers above 1", f"use {below} or {above}"
        )


@rule
def batch_splits_over_workers(train: TrainSpec) -> Iterator[Fault]:
    yield from batch_faults("train", "images_per_step_global", train.images_per_step_global, train.workers)


def batch_faults(section: str, field: str, images: int, workers: Pool) -> Iterator[Fault]:
    """A section's global batch splits evenly over its workers."""
    for bound in sorted({workers.min, workers.max}):
        if images % bound:
            below, above = images // bound * bound, (images // bound + 1) * bound
            nearest = f"{below} or {above}" if below else f"{above}"
            yield Fault(
                f"{section}.{field}",
                f"{images} is not a multiple of {bound} workers",
                f"a multiple of {section}.workers.min and of {section}.workers.max",
                f"use {nearest}",
            )


@rule
def schedules_fit(train: TrainSpec) -> Iterator[Fault]:
    optimizer = train.optimizer
    if optimizer.warmup_epochs >= train.epochs:
        yield Fault(
            "train.optimizer.warmup_epochs",
            f"{optimizer.warmup_epochs:g} of {train.epochs} epochs",
            "less than train.epochs",
            "shorten the warm-up or train longer",
        )
    if optimizer.learning_rate_min_base > optimizer.learning_rate_base:
        yield Fault(
            "train.optimizer.learning_rate_min_base",
            f"{optimizer.learning_rate_min_base:g} is above the peak {optimizer.learning_rate_base:g}",
            "at most learning_rate_base",
            "lower it",
        )
    stepwise, every = optimizer.decay == "step", optimizer.decay_every_epochs
    if stepwise and every is None:
        yield Fault(
            "train.optimizer.decay_every_epochs",
            "missing, but decay is step",
            "a number of epochs",
            f"add it, such as {max(1, train.epochs // 3)}, a third of the run",
        )
    if every is not None and not stepwise:
        shown = optimizer.decay or "left out"
        yield Fault(
            "train.optimizer.decay_every_epochs",
            f"{every:g}, but decay is {shown}",
            "nothing, or decay: step",
            "leave it out",
        )


@rule
def shares_sum_to_one(data: DataSpec) -> Iterator[Fault]:
    shares = data.shares
    given = [share for share in shares if share is not None]
    if not given:
        return
    if len(given) < len(shares):
        missing = next(i for i, share in enumerate(shares) if share is None)
        yield Fault(
            f"data.train.{missing}.share", "missing while other sources have one", "all or none", "add it"
        )
        return
    schedules = [(i, share) for i, share in enumerate(shares) if isinstance(share, ShareSchedule)]
    for number, schedule in schedules:
        first, last = schedule.epochs
        if not 0 <= first <= last:
            where = f"data.train.{number}.share.epochs"
            yield Fault(where, f"[{first}, {last}]", "0 <= first <= last", "swap them")
            return
    # Between these epochs all shares move in straight lines, and so does their sum.
    for epoch in sorted({0, *(epoch for _, schedule in schedules for epoch in schedule.epochs)}):
        total = float(sum(share_in(share, epoch) for share in given))
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            when = f" in epoch {epoch}" if schedules else ""
            yield Fault("data.train", f"shares sum to {total:g}{when}", "a sum of 1", "change a share")
            return


@rule
def something_is_trained_on(data: DataSpec) -> Iterator[Fault]:
    if not data.train and data.live is None:
        yield Fault("data.train", "no source", "at least one, or data.live", "add one")
    if not data.train and data.live is not None and data.images_per_epoch is None:
        got = "missing, and data.train is empty"
        yield Fault("data.images_per_epoch", got, "a number: a generator has no end", "add it")


@rule
def epoch_holds_a_step(data: DataSpec, train: TrainSpec) -> Iterator[Fault]:
    if data.images_per_epoch is not None and data.images_per_epoch < train.images_per_step_global:
        yield Fault(
            "data.images_per_epoch",
            f"{data.images_per_epoch} is less than one step of {train.images_per_step_global} images",
            "at least train.images_per_step_global",
            "raise it or leave it out",
        )


@rule
def evaluation_has_images(data: DataSpec, evaluate: EvaluateSpec) -> Iterator[Fault]:
    if data.eval is None and data.eval_bank is not None:
        yield Fault("data.eval_bank", "given without data.eval", "both or none", "add data.eval")
    if data.eval is not None and data.eval_bank is None and all(s.origin == "generated" for s in data.train):
        yield Fault(
            "data.eval_bank",
            "missing, and no train source is real",
            "a labelled source",
            "add data.eval_bank",
        )
