"""Images/s and latency of `syn2co serve`, batched against unbatched and against the model in a plain loop.

    python -m tests.benchmarks.bench_serve [--network vit_tiny|pico] [--clients 16] [--seconds 5] [--rounds 3]

One Ray Serve on loopback holds the same network twice, at /unbatched (batches of 1) and /batched (up to 32, 5
ms), one replica and one torch thread each. In every round each of four has its turn for `--seconds`: the
plain loop (this process: decode, view, forward, one image at a time), the plain loop in batches of 32, and the
two addresses under a closed loop: `--clients` coroutines that send their next image when they have the
answer to the last one, from this process too, so client, proxy and replica share the machine's cores. The
order turns from round to round; a ratio is the median of the rounds' own. p50 and p99 are over all requests
of all rounds. The time is bounded: rounds x 4 x seconds, and the start of Ray Serve.

Predicted before the first measurement, for 2 cores without a GPU, one torch thread and 16 clients:
ViT-Tiny at 224 px costs about 30 ms an image alone and 22 in a batch, so the plain loops give 33 and 45
images/s; Serve's proxy and the client work on the other core, so unbatched is 0.9 of the plain loop (30
images/s, p50 530 ms) and batched 0.9 of the batched loop (40 images/s, p50 400 ms): 1.3 times as many. The
"pico" network (32 px, 0.2 M parameters) costs 1 ms, less than the about 5 ms of CPU that a request costs client,
proxy and replica: both addresses give about 300 images/s, batched at most 1.2 times unbatched, a third of
the plain loop's.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import torch
from PIL import Image

from syn2co_ray.evaluate.networks import PackedNetwork, packed
from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.serve.embedder import ImageEmbedder
from syn2co_ray.spec.serving import serve_spec
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.weights import WeightsSpec
from syn2co_ray.submit.cluster import connected

NETWORKS = {
    "vit_tiny": (WeightsSpec(random_seed=0, backbone="vit_tiny_patch16_224"), (375, 500)),
    "pico": (
        WeightsSpec(
            random_seed=0,
            backbone="vit_tiny_patch16_224",
            image_size=32,
            patch_size=8,
            backbone_options={"embed_dim": 96, "depth": 3, "num_heads": 3},
        ),
        (32, 32),
    ),
}
BATCH = 32
PIXELS_MAX = 10_000_000


@dataclass
class Turns:
    """What one of the four did in its turns."""

    images_per_s: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0


def jpegs(shape: tuple[int, int], count: int = 64) -> list[bytes]:
    """Smooth random pictures: about as many bytes as photos of this size."""
    rng, encoded = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    return encoded


def plain_loop(
    embedder: ImageEmbedder, images: list[bytes], batch: int, seconds: float, turns: Turns
) -> None:
    """Decode, view and forward, `batch` images at a time, until the time is over."""
    done, started = 0, time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        some = [images[(done + offset) % len(images)] for offset in range(batch)]
        embedder.features([embedder.view(encoded) for encoded in some])
        done += batch
        turns.latencies_ms.append(1000 * (time.perf_counter() - now))
    turns.images_per_s.append(done / (time.perf_counter() - started))


async def closed_loop(url: str, images: list[bytes], clients: int, seconds: float, turns: Turns) -> None:
    """`clients` that each wait for one answer before they send the next image."""
    done, started = 0, time.perf_counter()

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal done
        while (sent := time.perf_counter()) - started < seconds:
            number += clients
            async with session.post(url, data=images[number % len(images)]) as answer:
                body = await answer.read()
            if answer.status != 200 or not body:
                turns.errors += 1
                continue
            turns.latencies_ms.append(1000 * (time.perf_counter() - sent))
            done += 1

    headers = {"Content-Type": "image/jpeg"}
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        await asyncio.gather(*(client(session, number) for number in range(clients)))
    turns.images_per_s.append(done / (time.perf_counter() - started))


def start(network: PackedNetwork, weights: WeightsSpec) -> str:
    """Both applications on one Ray Serve; the address before /batched and /unbatched."""
    import ray
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from syn2co_ray.serve.application import Served, application

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    serve.start(
        proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet
    )
    boxed = [ray.put(network)]
    for name, most in (("unbatched", 1), ("batched", BATCH)):
        spec = serve_spec(
            {
                "weights": weights,
                "replicas": {"cpus_each": 0.5, "gpus_each": 1.0 if torch.cuda.is_available() else 0.0},
                "images_per_batch_max": most,
            }
        )
        serve.run(application(Served(spec, boxed)), name=name, route_prefix=f"/{name}", logging_config=quiet)
    return f"http://127.0.0.1:{port}"


def measured(network: str, clients: int, seconds: float, rounds: int) -> dict[str, Turns]:
    """All rounds; the first request of each address is not counted."""
    weights, shape = NETWORKS[network]
    torch.set_num_threads(1)
    images = jpegs(shape)
    loaded = load_backbone(weights, ObjectStoreSpec())
    packed_network = packed(loaded.source, loaded)
    embedder = ImageEmbedder(packed_network, PIXELS_MAX)
    print(f"{network}: {shape[1]} x {shape[0]} px JPEGs of {len(images[0]):,} bytes on {embedder.device}")
    turns = {name: Turns() for name in ("plain", "plain in batches", "unbatched", "batched")}
    with connected():
        base = start(packed_network, weights)

        def ask(name: str, turns: Turns, seconds: float) -> None:
            asyncio.run(closed_loop(f"{base}/{name}/embed", images, clients, seconds, turns))

        work: list[tuple[str, Callable[[], Any]]] = [
            ("plain", lambda: plain_loop(embedder, images, 1, seconds, turns["plain"])),
            (
                "plain in batches",
                lambda: plain_loop(embedder, images, BATCH, seconds, turns["plain in batches"]),
            ),
            ("unbatched", lambda: ask("unbatched", turns["unbatched"], seconds)),
            ("batched", lambda: ask("batched", turns["batched"], seconds)),
        ]
        for name in ("unbatched", "batched"):
            ask(name, Turns(), 0.5)
        embedder.features([embedder.view(image) for image in images[:BATCH]])
        for number in range(rounds):
            for step in range(len(work)):
                work[(number + step) % len(work)][1]()
    return turns


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--network", choices=sorted(NETWORKS), default="vit_tiny")
    words.add_argument("--clients", type=int, default=16)
    words.add_argument("--seconds", type=float, default=5.0)
    words.add_argument("--rounds", type=int, default=3)
    given = words.parse_args()
    load = os.getloadavg()[0]
    turns = measured(given.network, given.clients, given.seconds, given.rounds)
    print(
        f"{given.clients} clients, {given.rounds} rounds of {given.seconds:g} s each; load before {load:.1f}"
    )
    print(f"{'':18}{'images/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'requests':>10}{'errors':>8}")
    for name, found in turns.items():
        p50, p99 = np.percentile(found.latencies_ms, [50, 99])
        rate = statistics.median(found.images_per_s)
        print(f"{name:18}{rate:10.1f}{p50:9.1f}{p99:9.1f}{len(found.latencies_ms):10}{found.errors:8}")
    for name, other in (
        ("batched", "unbatched"),
        ("unbatched", "plain"),
        ("batched", "plain"),
        ("batched", "plain in batches"),
    ):
        pairs = zip(turns[name].images_per_s, turns[other].images_per_s, strict=True)
        ratios = sorted(a / b for a, b in pairs)
        print(
            f"{name} / {other}: {statistics.median(ratios):.2f} (rounds {ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
