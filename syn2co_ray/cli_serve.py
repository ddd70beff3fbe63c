"""The command that puts weights behind an HTTP address."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console

from .cli_shared import Debug, guarded

EPILOG = (
    "Exit codes: 0 ended by Ctrl-C or SIGTERM, 2 wrong options or a taken port, 3 embeddings or storage, "
    "4 weights, 5 no room on the cluster."
)


def serve(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS",
            help="Folder of a run, a timm folder of `kind: export`, or a file with --backbone; any URI.",
        ),
    ],
    neighbours: Annotated[
        str | None,
        typer.Option("--neighbours", help="Folder that `kind: embed` wrote with these weights."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="timm model name, for a file of weights.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Pixels; the network's own, else 224.")
    ] = None,
    step: Annotated[
        int | None, typer.Option("--step", help="Of a run's checkpoint; else the newest whole one.")
    ] = None,
    encoder: Annotated[
        Literal["online", "target"],
        typer.Option("--encoder", help="Of a run: the trained or the averaged one."),
    ] = "online",
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="WARNING: with another than loopback's, other machines can use it, and nothing is "
            "encrypted; needs a token in SYN2CO_SERVE_TOKEN.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port")] = 8000,
    replicas_min: Annotated[int, typer.Option("--replicas-min", help="Processes with the network.")] = 1,
    replicas_max: Annotated[
        int | None, typer.Option("--replicas-max", help="Up to as many while requests wait; else the fewest.")
    ] = None,
    cpus_each: Annotated[
        float, typer.Option("--cpus-each", help="CPUs of a replica, threads that decode.")
    ] = 1.0,
    gpus_each: Annotated[
        float | None, typer.Option("--gpus-each", help="GPUs of a replica; 1 where there is one.")
    ] = None,
    images_per_batch_max: Annotated[
        int, typer.Option("--images-per-batch-max", help="Images of a forward pass; 1: each by itself.")
    ] = 32,
    batch_wait_ms: Annotated[
        float, typer.Option("--batch-wait-ms", help="How long a batch waits for further images.")
    ] = 5.0,
    queue_images_max: Annotated[
        int, typer.Option("--queue-images-max", help="Requests a replica holds; then it answers 429.")
    ] = 256,
    body_bytes_max: Annotated[
        int, typer.Option("--body-bytes-max", help="Larger ones get 413.")
    ] = 20_000_000,
    image_pixels_max: Annotated[
        int, typer.Option("--image-pixels-max", help="Larger images get 422, undecoded.")
    ] = 40_000_000,
    request_timeout_s: Annotated[
        float, typer.Option("--request-timeout-s", help="A request may take, upload included.")
    ] = 60.0,
    drain_s: Annotated[
        float, typer.Option("--drain-s", help="Requests in flight may take after Ctrl-C.")
    ] = 30.0,
    endpoint_url: Annotated[
        str | None, typer.Option("--endpoint-url", help="S3-compatible store; else AWS_ENDPOINT_URL.")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="Else AWS_DEFAULT_REGION.")] = None,
    debug: Debug = False,
) -> None:
    """Answer images with their embeddings, and with their nearest neighbours, over HTTP.

    POST an image to /embed (bytes, or a form with one file): JSON, or float32 with `Accept:
    application/octet-stream`. POST one to /neighbours?k=10: keys and cosines. GET /health and /metrics
    (Prometheus). Embeddings equal those of `kind: evaluate` and `kind: embed`. Images that come together are
    embedded together. A full queue is answered with 429, a body over the limit with 413, another type with
    415, an unreadable image with 422 and its reason. Only this machine can reach it; from another one use
    `ssh -L 8000:127.0.0.1:8000`. With SYN2CO_SERVE_TOKEN set, `Authorization: Bearer` is asked for. Runs
    here, or on the Ray cluster that RAY_ADDRESS names. Needs `pip install 'syn2co_ray[serve]'`.

    Example: syn2co serve runs/digits-synby-3fa9c1d2, then
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/embed
    """

    def work() -> None:
        from .evaluate.named_weights import weights_at
        from .spec.serving import serve_spec
        from .spec.source import ObjectStoreSpec
        from .submit.serve import run_serve

        options = ObjectStoreSpec(endpoint_url=endpoint_url, region=region)
        found = weights_at(
            weights, options, backbone=backbone, image_size=image_size, step=step, encoder=encoder
        )
        values = {
            "weights": found,
            "neighbours": neighbours,
            "replicas": {
                "min": replicas_min,
                "max": replicas_min if replicas_max is None else replicas_max,
                "cpus_each": cpus_each,
                "gpus_each": gpus_each,
            },
            "images_per_batch_max": images_per_batch_max,
            "batch_wait_ms": batch_wait_ms,
            "queue_images_max": queue_images_max,
            "body_bytes_max": body_bytes_max,
            "image_pixels_max": image_pixels_max,
            "request_timeout_s": request_timeout_s,
            "drain_s": drain_s,
            "host": host,
            "port": port,
            "object_store": options,
        }
        run_serve(serve_spec(values), Console(), debug=debug)

    guarded(work, debug)


def add_commands(app: typer.Typer) -> None:
    """Give the command its word for serving."""
    app.command(epilog=EPILOG)(serve)
