"""What a checkpoint costs the step: published in the background, beside one that the step waits for.

    python tests/benchmarks/bench_checkpoint.py [rounds]

A ViT-Tiny MoBY (both encoders, heads, queues, AdamW: 150 MB a checkpoint) trains on views in memory, one process,
one thread: without checkpoints, with one every 20 steps in the background, and with one every 20 steps that is
waited for; to the S3 server of the tests where its programs are installed, else to a local disk. In turns; the
stall is what a checkpoint adds to the steps around it.

Predicted before measuring: in the background a checkpoint costs the copy of the tensors (150 MB at 2 GB/s: 75 ms)
and what its thread takes from the step, as both share the machine; waited for, SHA-256, serialisation and the
upload come on top: 0.9 s to a store that takes 0.2 GB/s.

Found, with the S3 server on the same two cores: 220 ms in the background, 1,172 ms waited for.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from syn2co_ray.data.stream import StepRecords  # noqa: E402
from syn2co_ray.spec.job import PretrainSpec  # noqa: E402
from syn2co_ray.spec.load import load_text  # noqa: E402
from syn2co_ray.train.context import TrainContext  # noqa: E402
from syn2co_ray.train.loop import TrainLoop  # noqa: E402
from syn2co_ray.train.run_folder import open_run  # noqa: E402
from syn2co_ray.train.uploads import Uploads  # noqa: E402

STEPS, EVERY, BATCH = 80, 20, 16
JOB = """
kind: pretrain
name: {name}
seed: 0
storage: {storage}
data: {{train: [{{uri: /nowhere}}]}}
augment: {{recipe: byol, image_size: 32}}
method: {{framework: moby, backbone: vit_tiny_patch16_224, patch_size: 8, queue_size_features: 4096}}
train: {{images_per_step_global: {batch}, epochs: 1000, checkpoint: {{every_steps: {every}, every_epochs: 1000}}}}
"""


class WaitedFor(Uploads):
    """Publishes before it returns, as a loop with a plain `save` does."""

    def start(self, publish: Callable[[], None]) -> None:
        publish()


def records() -> Iterator[StepRecords]:
    views = np.random.default_rng(0).integers(0, 256, (BATCH, 2, 3, 32, 32), dtype=np.uint8)
    keys = [str(row) for row in range(BATCH)]
    for step in range(STEPS + 1):
        yield StepRecords(0, step, [views], keys, np.zeros(BATCH, int), [None] * BATCH, [])


def seconds(storage: str, name: str, every: int, waited_for: bool) -> float:
    """From the second step to the last one."""
    job = load_text(JOB.format(name=name, storage=storage, batch=BATCH, every=every), ())
    assert isinstance(job, PretrainSpec)
    context = TrainContext(0, 1, torch.device("cpu"), lambda first_step: records())
    loop = TrainLoop(job, context, open_run(job), steps_per_epoch=10_000)
    loop.trainer.total_steps = STEPS + 1
    if waited_for:
        loop.uploads = WaitedFor()
    begun: list[float] = []
    context.keys_seen = lambda step, keys: begun.append(time.perf_counter())
    loop.run_to_end()
    return begun[-1] - begun[1]


def main(rounds: int = 5) -> None:
    from tests.object_store import missing_binaries, running_object_store

    torch.set_num_threads(1)
    ways = {"none": (10_000, False), "in the background": (EVERY, False), "waited for": (EVERY, True)}
    with contextlib.ExitStack() as stack:
        storage, where = stack.enter_context(tempfile.TemporaryDirectory()), "a local disk"
        if not missing_binaries():
            server = stack.enter_context(running_object_store())
            os.environ |= server.environment
            storage, where = server.make_bucket("bench"), "an S3 server on this machine"
        found: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds):
            for way, (every, waited_for) in ways.items():
                name = f"{way.replace(' ', '-')}-{number}"
                found[way].append(seconds(storage, name, every, waited_for))
    plain = statistics.median(found["none"])
    print(
        f"checkpoints to {where}, {STEPS - 1} steps of {plain / (STEPS - 1) * 1000:.0f} ms, {rounds} rounds in turns"
    )
    for way, took in found.items():
        count = (STEPS - 1) // EVERY
        stall_ms = (statistics.median(took) - plain) / count * 1000
        print(f"{way:20} {statistics.median(took):6.2f} s   {stall_ms:6.0f} ms a checkpoint", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
