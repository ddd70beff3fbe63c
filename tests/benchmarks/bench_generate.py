"""Generation: a whole job beside the loop a user would write, and beside the pipeline's own time.

    python tests/benchmarks/bench_generate.py [--quick]

On a CPU, with the shipped digits DDPM (25 DDIM steps, 8 x 8 pixels: the worst case, everything around the network
weighs most), images a second of two processes of one thread each:

    loop, batch 1     one process: pipeline(), save a PNG, again
    loop, best batch  the same with the best of several batches
    pipeline alone    two processes that only call the pipeline, with the job's batches
    job               `syn2co run` with 2 actors: Ray, gate, encoding, parts, shards; from the first shard on

Goal: the job costs at most 10 % more than the pipeline alone.

On a GPU, with a pipeline of Stable Diffusion 1.5's shape and random weights (the same operations): images a
second of the loop at batch 1 in float32, of batches 1 to 32 in float32 and bfloat16, with torch.compile, and of
the job's own loop with encoding beside it; busy share of the GPU. Goals: twice the loop; busy 95 %.

Predicted before measuring: overhead of 3 to 8 % on the CPU, from encoding (0.05 ms an image), gate and Ray's
0.1 s a shard; 3 to 5 times the loop on a GPU, of which bfloat16 gives 2 and batches the rest.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from syn2co_ray.generate.slots import Slot, image_seed
from syn2co_ray.spec.generate import GenerateSpec

STEPS, BATCH, PER_SHARD = 25, 64, 256


def job_of(into: Path, images: int, **changes: Any) -> GenerateSpec:
    fields: dict[str, Any] = {
        "kind": "generate",
        "name": "bench",
        "seed": 0,
        "into": str(into),
        "images": images,
        "pipeline": {"source": "package:digits_ddpm", "scheduler": "DDIMScheduler", "steps": STEPS},
        "images_per_batch": BATCH,
        "images_per_shard": PER_SHARD,
        "actors": {"min": 2, "max": 2, "cpus_each": 1},
    }
    return GenerateSpec.model_validate(fields | changes)


def maker_of(job: GenerateSpec, device: str) -> Any:
    from syn2co_ray.generate.pipeline import ImageMaker
    from syn2co_ray.generate.weights import local_pipeline

    return ImageMaker(job, local_pipeline(job.pipeline, job.object_store), device)


def made(make: Any, first: int, count: int) -> np.ndarray:
    slots = [Slot(first + i) for i in range(count)]
    return make(slots, [image_seed(0, slot.number, 0) for slot in slots])


def loop_images_per_s(job: GenerateSpec, batch: int, images: int, device: str = "cpu") -> float:
    """What a user writes first: call the pipeline, save each image, again."""
    make = maker_of(job, device)
    made(make, 0, batch)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for first in range(0, images, batch):
            for number, image in enumerate(made(make, first, batch)):
                pixels = (image * 255).round().astype(np.uint8)
                Image.fromarray(pixels).save(f"{folder}/{first + number}.png")
        return images / (time.perf_counter() - started)


def pipeline_process(job: GenerateSpec, images: int, start: Any, seconds: Any) -> None:
    torch.set_num_threads(1)
    make = maker_of(job, "cpu")
    made(make, 0, BATCH)
    start.wait()
    started = time.perf_counter()
    for first in range(0, images, BATCH):
        made(make, first, BATCH)
    seconds.put(time.perf_counter() - started)


def pipeline_alone_images_per_s(job: GenerateSpec, images_each: int) -> float:
    context = multiprocessing.get_context("spawn")
    start, seconds = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=pipeline_process, args=(job, images_each, start, seconds)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    taken = [seconds.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(images_each / one for one in taken)


def job_images_per_s(job: GenerateSpec) -> float:
    """Of all shards but the first two, which wait for the actors to start."""
    import io

    from rich.console import Console

    from syn2co_ray.submit.generate import run_generate

    run_generate(job, Console(file=io.StringIO()))
    finished = sorted(file.stat().st_mtime for file in Path(job.into).glob("shard-*.parquet"))
    return (len(finished) - 2) * PER_SHARD / (finished[-1] - finished[1])


def on_cpu(quick: bool) -> None:
    images = 2048 if quick else 6144
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(Path(folder) / "job", images)
        loops = {batch: loop_images_per_s(job, batch, max(128, 4 * batch)) for batch in (1, 8, 32, 64, 128)}
        best = max(loops, key=lambda batch: loops[batch])
        alone = [pipeline_alone_images_per_s(job, 1024)]
        ours = job_images_per_s(job)
        alone.append(pipeline_alone_images_per_s(job, 1024))
    mean = sum(alone) / len(alone)
    print(f"loop, batch 1                {loops[1]:8.1f} images/s (one process)")
    print(f"loop, best batch ({best:3d})       {loops[best]:8.1f} images/s (one process)")
    print(
        f"pipeline alone, 2 processes  {mean:8.1f} images/s (before and after: {alone[0]:.1f}, {alone[1]:.1f})"
    )
    print(f"job, 2 actors                {ours:8.1f} images/s: {ours / loops[1]:.1f} x the loop at batch 1, ")
    print(
        f"                             overhead {mean / ours - 1:+.1%} of the pipeline alone (goal at most 10 %)"
    )


def save_stable_diffusion(folder: Path, **smaller: Any) -> Path:
    """A pipeline of Stable Diffusion 1.5's shape with random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8, **smaller)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "photo": 3}
    (folder / "words").mkdir(parents=True)
    import json

    (folder / "words/vocab.json").write_text(json.dumps(words))
    (folder / "words/merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "words/vocab.json"), str(folder / "words/merges.txt"))
    text = CLIPTextModel(
        CLIPTextConfig(vocab_size=49408, hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    )
    StableDiffusionPipeline(
        vae, text, tokenizer, unet, DDIMScheduler(), None, None, requires_safety_checker=False
    ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def on_gpu(quick: bool) -> None:
    from syn2co_ray.generate.gate import Gate
    from syn2co_ray.generate.shards import make_shard
    from syn2co_ray.generate.slots import Conditions, shard_of

    images = 32 if quick else 128
    with tempfile.TemporaryDirectory() as folder:
        source = save_stable_diffusion(Path(folder) / "sd")

        def job(batch: int, dtype: str, compiled: bool = False) -> GenerateSpec:
            pipeline = {"source": str(source), "steps": 20, "dtype": dtype, "compile": compiled}
            return job_of(
                Path(folder) / "out",
                images,
                pipeline=pipeline,
                prompts={"classes": ["photo"]},
                images_per_batch=batch,
                images_per_shard=images,
                gate={"contrast_min": 0.0},
            )

        naive = loop_images_per_s(job(1, "float32"), 1, 16, "cuda")
        print(f"loop, batch 1, float32  {naive:6.2f} images/s")
        settings: Sequence[tuple[str, bool]] = (("float32", False), ("bfloat16", False), ("bfloat16", True))
        for dtype, compiled in settings:
            for batch in (1, 4, 16, 32):
                spec = job(batch, dtype, compiled)
                make = maker_of(spec, "cuda")
                shard = shard_of(spec, Conditions(), "bench", 0)
                made_by = [0.0]

                def timed(*inputs: Any, make: Any = make, made_by: list[float] = made_by) -> np.ndarray:
                    started = time.perf_counter()
                    found = make(*inputs)
                    made_by[0] += time.perf_counter() - started
                    return found

                make(shard.slots[:batch], [1] * batch, None)  # compiles, warms up
                started = time.perf_counter()
                make_shard(spec, "bench", shard, timed, lambda slots: None, Gate(spec.gate), {})
                taken = time.perf_counter() - started
                print(
                    f"job's loop, batch {batch:2d}, {dtype}{', compiled' if compiled else ''}: "
                    f"{images / taken:6.2f} images/s, {images / taken / naive:4.1f} x; "
                    f"pipeline at work {made_by[0] / taken:.1%} of the time"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer images")
    arguments = parser.parse_args()
    if torch.cuda.is_available():
        on_gpu(arguments.quick)
    on_cpu(arguments.quick)
    sys.exit(0)
