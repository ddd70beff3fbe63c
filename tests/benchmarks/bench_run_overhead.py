"""What `syn2co run` costs beside a plain torch loop: step rate once fed, and time until it trains.

    python tests/benchmarks/bench_run_overhead.py

Three things in one run, with the digits_synby job's model and batch:

1. a plain loop (DDP, forward, backward, clip, AdamW, enqueue) on views in memory, two gloo processes;
2. `TrainLoop` (the same, plus agreement before and after every step, metrics, progress) on the same views,
   in the same two processes; rounds of 1 and 2 take turns, and the median of their paired ratios counts;
3. the whole `run`: Ray, reading, view actors. On few cores the view actor takes CPU time from training,
   which 1 and 2 do not need, so this rate says what a user gets and not what the loop costs.

Predicted before measuring: two small gloo all-reduces and some Python a step, about 1 ms beside steps of
100 ms and more, so a ratio of at least 0.98. The goal is 0.95.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from syn2co_ray.data.stream import StepRecords  # noqa: E402
from syn2co_ray.methods import StepContext, build_method  # noqa: E402
from syn2co_ray.methods.normalise import normalise  # noqa: E402
from syn2co_ray.spec.job import PretrainSpec  # noqa: E402
from syn2co_ray.spec.load import load_job  # noqa: E402
from syn2co_ray.train.context import TrainContext  # noqa: E402
from syn2co_ray.train.loop import TrainLoop  # noqa: E402
from syn2co_ray.train.optimizer import build_optimizer  # noqa: E402
from syn2co_ray.train.run_folder import open_run  # noqa: E402
from syn2co_ray.train.trainer import NO_BUFFER_BROADCAST  # noqa: E402
from tests.train.gloo_ranks import run_ranks  # noqa: E402

ROUNDS = 7
STEPS = 40
WORLD_SIZE = 2


def digits_job(*values: str) -> PretrainSpec:
    job = load_job(ROOT / "jobs/digits_synby.yaml", list(values))
    assert isinstance(job, PretrainSpec)
    return job


def views_in_memory(job: PretrainSpec) -> list[np.ndarray]:
    """A few steps' uint8 views (images_per_rank, 2, 3, S, S), reused in turn."""
    generator = np.random.default_rng(0)
    shape = (
        job.train.images_per_step_global // WORLD_SIZE,
        2,
        3,
        job.augment.image_size,
        job.augment.image_size,
    )
    return [generator.integers(0, 256, size=shape, dtype=np.uint8) for _ in range(8)]


def plain_loop(job: PretrainSpec, rank: int, views: list[np.ndarray]) -> float:
    """Steps per second of a loop that does nothing but train."""
    method = build_method(job.method, job.augment.image_size, job.seed)
    model = DistributedDataParallel(method, **NO_BUFFER_BROADCAST)
    optimizer = build_optimizer(method, job.train.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    clip_norm = job.train.optimizer.gradient_clip_norm
    assert clip_norm is not None
    rows = job.train.images_per_step_global // WORLD_SIZE
    started = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            started = time.perf_counter()
        place = StepContext(job.seed, step, 0, STEPS + 1, job.train.images_per_step_global, rank * rows)
        batch = torch.from_numpy(views[step % len(views)])
        output = model([normalise(batch[:, 0]), normalise(batch[:, 1])], place)
        optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        method.commit(place)
    return STEPS / (time.perf_counter() - started)


def our_loop(job: PretrainSpec, rank: int, group: Any, views: list[np.ndarray], folder: str) -> float:
    """Steps per second of `TrainLoop` fed with the same views."""

    def records(first_step: int) -> Iterator[StepRecords]:
        for step in range(first_step, STEPS + 1):
            images = views[step % len(views)]
            keys = [str(row) for row in range(len(images))]
            sources = np.zeros(len(images), dtype=np.int64)
            yield StepRecords(0, step, [images], keys, sources, [None for _ in keys], [])

    ended: list[float] = []
    context = TrainContext(rank, WORLD_SIZE, torch.device("cpu"), records, control_group=group)
    job = job.model_copy(update={"storage": folder})
    loop = TrainLoop(job, context, open_run(job), STEPS + 1)
    after_step = loop._after_step

    def timed(*arguments: Any) -> None:
        after_step(*arguments)
        ended.append(time.perf_counter())

    loop._after_step = timed  # type: ignore[method-assign,assignment]
    loop.run_to_end()
    return STEPS / (ended[-1] - ended[0])


def rank_main(rank: int, world_size: int, group: Any) -> list[tuple[float, float]]:
    job = digits_job("train.epochs=1", "train.optimizer.warmup_epochs=0", "data.eval=null")
    views = views_in_memory(job)
    rounds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append((plain_loop(job, rank, views), our_loop(job, rank, group, views, folder)))
    return rounds


def whole_run(folder: Path) -> tuple[float, dict[str, float]]:
    """Steps per second of that job's first epochs once fed, and the stages of its start-up in s."""
    words = [
        "run",
        "jobs/digits_synby.yaml",
        f"storage={folder}",
        "train.epochs=6",
        "evaluate.knn.every_epochs=6",
    ]
    done = subprocess.run([sys.executable, "-m", "syn2co_ray.cli", *words], cwd=ROOT, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode())
    (file,) = folder.glob("*/results.json")
    results = json.loads(file.read_text())
    job = digits_job()
    return results["images_per_s"] / job.train.images_per_step_global, results["startup_s"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rounds = run_ranks(rank_main, WORLD_SIZE, Path(folder))[0]
        run, startup = whole_run(Path(folder) / "runs")
    plain, ours = (statistics.median(part) for part in zip(*rounds, strict=True))
    ratios = [ours / plain for plain, ours in rounds]
    print(f"plain torch loop  {plain:7.2f} steps/s   (rounds: {', '.join(f'{p:.2f}' for p, _ in rounds)})")
    print(f"TrainLoop         {ours:7.2f} steps/s   (rounds: {', '.join(f'{o:.2f}' for _, o in rounds)})")
    print(
        f"ratio             {statistics.median(ratios):7.3f}   (median of the rounds' ratios, "
        f"{min(ratios):.2f} to {max(ratios):.2f}; goal: at least 0.95)"
    )
    print(f"whole run         {run:7.2f} steps/s   (the view actor on the same cores)")
    print(f"until it trains   {startup.pop('total'):7.1f} s         (goal: under 45 s on 2 cores), of which")
    for stage, seconds in startup.items():
        print(f"  {stage:<18}{seconds:5.1f} s")


if __name__ == "__main__":
    main()
