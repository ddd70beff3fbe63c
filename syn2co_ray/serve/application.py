"""The replicas: images come in by HTTP, are decoded beside one another, and embedded in batches.

One deployment takes a request from its bytes to its answer, so that no image travels between processes but
from Serve's proxy to a replica. The search is one of its own: its embeddings are held once, whatever the
number of networks, and one row of features is all that it is sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import BackPressureError
from starlette.requests import Request
from starlette.responses import Response

from ..data.decode import UnreadableImage
from ..evaluate.embedding_rows import read_embedding_rows
from ..evaluate.nearest import NearestRows
from ..spec.errors import Fault
from ..spec.serving import ServeSpec
from ..storage import Store, open_store
from .embedder import ImageEmbedder
from .figures import Figures, metrics_page
from .requests import Refused, check_name, check_token, count_of, has_token, image_of

_log = logging.getLogger("ray.serve")

RAW_FLOATS = "application/octet-stream"
METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
NEIGHBOURS_DEFAULT = 10
QUERIES_PER_SEARCH = 64
OTHER_REQUESTS = 32
"""Requests a replica takes beyond those it may hold: health, metrics, and refusals on their way out."""
DRAIN_LOOK_S = 0.1


@dataclass(frozen=True)
class Served:
    """What every replica is told."""

    spec: ServeSpec
    boxed: list[Any]
    """Ray's reference to the `evaluate.networks.PackedNetwork`, in a box. The tensors are sent, and not read
    again by each replica: a run that trains on drops its old checkpoints."""
    token_digest: str | None = None
    hosts: frozenset[str] | None = None
    """Names that requests may use for this server; any when None."""


class Nearest:
    """Holds the embeddings and finds the nearest of them."""

    def __init__(self, place: Store) -> None:
        rows = read_embedding_rows(place)
        self._keys, self._rows = rows.keys, NearestRows(rows.embeddings)
        self._thread = ThreadPoolExecutor(1)

    def about(self) -> dict[str, Any]:
        return {"rows": self._rows.rows, "features": self._rows.features, "search": self._rows.search_by}

    # The queries of a moment share one pass over the rows; nobody waits for further ones.
    @serve.batch(max_batch_size=QUERIES_PER_SEARCH, batch_wait_timeout_s=0.0)
    async def search(self, queries: list[np.ndarray], counts: list[int]) -> list[list[dict[str, Any]]]:
        """Key and cosine of the nearest rows of each query (F,) float32, best first."""
        run = asyncio.get_running_loop().run_in_executor
        rows, similarities = await run(self._thread, self._rows.search, np.stack(queries), max(counts))
        return [
            [
                {"key": self._keys[int(row)].as_py(), "similarity": float(similarity)}
                for row, similarity in zip(rows[i, :count], similarities[i, :count], strict=True)
            ]
            for i, count in enumerate(counts)
        ]


class Images:
    """Takes images and answers with their features, or with what is near them."""

    def __init__(self, served: Served, nearest: Any = None) -> None:
        spec = served.spec
        threads = max(1, int(spec.replicas.cpus_each))
        torch.set_num_threads(threads)
        self._served, self._nearest = served, nearest
        self._embedder = ImageEmbedder(ray.get(served.boxed[0]), spec.image_pixels_max)
        self._num_features = self._embedder.check()
        self._decoders, self._network_thread = ThreadPoolExecutor(threads), ThreadPoolExecutor(1)
        self._features.set_max_batch_size(spec.images_per_batch_max)
        self._features.set_batch_wait_timeout_s(spec.batch_wait_ms / 1000)
        self._figures, self._held, self._broken = Figures(), 0, ""
        self._pages: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/embed": ("POST", self._embed),
            "/neighbours": ("POST", self._neighbours),
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._metrics),
        }

    def check_health(self) -> None:
        """Ray Serve replaces a replica whose network failed: views have one shape, so no image did that."""
        if self._broken:
            raise RuntimeError(self._broken)

    async def __call__(self, request: Request) -> Response:
        started = time.perf_counter()
        try:
            page, answer = self._page_of(request)
            response = await answer(request)
        except Refused as refused:
            self._figures.refused(refused.reason)
            return _error(refused.status, refused.fault, refused.headers)
        except Exception as error:
            _log.exception("a request failed")
            self._figures.refused("failed")
            step = "look into the log of Ray Serve's replica"
            return _error(500, Fault("server", type(error).__name__, "", step))
        self._figures.answered(page, time.perf_counter() - started)
        return response

    def _page_of(self, request: Request) -> tuple[str, Callable[[Request], Awaitable[Response]]]:
        check_name(request, self._served.hosts)
        page = request.scope["path"].removeprefix(request.scope.get("root_path", "")) or "/"
        if page not in self._pages:
            fault = Fault("path", page[:80], ", ".join(self._pages), "ask for one of these")
            raise Refused(404, "no_such_page", fault)
        method, answer = self._pages[page]
        if request.method != method:
            fault = Fault("method", request.method, method, f"send {method}")
            raise Refused(405, "no_such_page", fault, {"allow": method})
        if page != "/health":
            check_token(request, self._served.token_digest)
        return page, answer

    async def _embed(self, request: Request) -> Response:
        row = await self._row(request)
        if RAW_FLOATS in request.headers.get("accept", ""):
            return Response(row.astype("<f4").tobytes(), media_type=RAW_FLOATS, headers=self._weights())
        return _json({"embedding": row.tolist(), "weights": self._embedder.digest}, headers=self._weights())

    async def _neighbours(self, request: Request) -> Response:
        if self._nearest is None:
            fault = Fault("path", "/neighbours", "/embed", "start the server with --neighbours PREFIX")
            raise Refused(404, "no_such_page", fault)
        count = count_of(request, "k", NEIGHBOURS_DEFAULT, self._served.spec.neighbours_max)
        row = await self._row(request)
        try:
            found = await self._nearest.search.remote(row, count)
        except BackPressureError:
            raise _full(503, "the search has too many requests waiting") from None
        return _json({"neighbours": found, "weights": self._embedder.digest}, headers=self._weights())

    async def _health(self, request: Request) -> Response:
        about: dict[str, Any] = {"status": "broken" if self._broken else "ok"}
        if has_token(request, self._served.token_digest):
            about |= {
                "weights": self._embedder.source,
                "digest": self._embedder.digest,
                "image_size": self._embedder.image_size,
                "features": self._num_features,
                "device": str(self._embedder.device),
                "neighbours": self._nearest is not None,
                "requests_held": self._held,
            }
        return _json(about, status=503 if self._broken else 200)

    async def _metrics(self, request: Request) -> Response:
        return Response(await asyncio.to_thread(metrics_page), media_type=METRICS_TEXT)

    async def _row(self, request: Request) -> np.ndarray:
        """The features (F,) float32 of the image that a request brings."""
        spec = self._served.spec
        if self._held >= spec.queue_images_max:
            raise _full(429, f"{self._held} requests are held already")
        self._held += 1
        try:
            encoded = await image_of(request, spec.body_bytes_max)
            run = asyncio.get_running_loop().run_in_executor
            view = await run(self._decoders, self._embedder.view, encoded)
            return await self._features(view)
        except UnreadableImage as error:
            fault = Fault("image", error.reason, "JPEG, PNG, WebP, GIF or BMP, whole", "mend the file")
            raise Refused(422, "unreadable_image", fault) from None
        finally:
            self._held -= 1

    @serve.batch
    async def _features(self, views: list[np.ndarray]) -> list[np.ndarray]:
        started = time.perf_counter()
        run = asyncio.get_running_loop().run_in_executor
        try:
            # Beside the event loop: the next batch gathers meanwhile, and health is answered.
            rows = await run(self._network_thread, self._embedder.features, views)
        except Exception as error:
            self._broken = f"the network failed: {type(error).__name__}: {error}"
            raise
        self._figures.forwarded(len(views), time.perf_counter() - started)
        return list(rows)

    def _weights(self) -> dict[str, str]:
        return {"x-weights-digest": self._embedder.digest}


def application(served: Served) -> serve.Application:
    """The deployments of a server, ready for `serve.run`; `replicas.gpus_each` must be decided."""
    spec = served.spec
    drain = {"graceful_shutdown_timeout_s": spec.drain_s, "graceful_shutdown_wait_loop_s": DRAIN_LOOK_S}
    nearest = None
    if spec.neighbours is not None:
        nearest = serve.deployment(
            ray_actor_options={"num_cpus": 1},
            max_ongoing_requests=4 * QUERIES_PER_SEARCH,
            max_queued_requests=spec.queue_images_max,
            max_constructor_retry_count=1,
            **drain,
        )(Nearest).bind(open_store(spec.neighbours, spec.object_store))
    gpus = spec.replicas.gpus_each
    if gpus is None:
        raise ValueError("replicas.gpus_each must be decided before")
    requests_each = spec.queue_images_max + OTHER_REQUESTS
    images = serve.deployment(
        ray_actor_options={"num_cpus": spec.replicas.cpus_each, "num_gpus": gpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=spec.replicas.min,
            max_replicas=spec.replicas.max,
            target_ongoing_requests=spec.images_per_batch_max,
        ),
        max_ongoing_requests=requests_each,
        # Replicas answer 429 themselves; this is for requests that none of them has room to refuse. The proxy
        # counts a request as queued while it looks for a replica, so a burst that they can all take, with a
        # question for health after it, must fit.
        max_queued_requests=spec.replicas.max * requests_each,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        max_constructor_retry_count=2,
        **drain,
    )(Images)
    return images.bind(served, nearest)


def _full(status: int, got: str) -> Refused:
    fault = Fault("queue", got, "", "send it again later, or start more replicas")
    return Refused(status, "queue_full", fault, {"retry-after": "1"})


def _json(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content, allow_nan=False).encode()
    return Response(body, status, headers=headers, media_type="application/json")


def _error(status: int, fault: Fault, headers: dict[str, str] | None = None) -> Response:
    parts = {"where": fault.where, "got": fault.got, "allowed": fault.allowed, "next_step": fault.next_step}
    return _json({"error": fault.render(), **parts}, status, headers)
