"""A real Ray Serve on loopback, started once: what it answers, what it refuses, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPResponse
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image

pytest.importorskip("ray.serve", reason="needs the extra `serve`")
pytest.importorskip("python_multipart", reason="needs the extra `serve`")

from syn2co_ray.evaluate.networks import PackedNetwork, packed
from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.serve import lifetime
from syn2co_ray.serve.application import Served
from syn2co_ray.serve.embedder import ImageEmbedder
from syn2co_ray.serve.lifetime import serving
from syn2co_ray.serve.requests import token_digest
from syn2co_ray.spec.errors import ClusterError
from syn2co_ray.spec.serving import serve_spec
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.weights import WeightsSpec

from ..evaluate.test_embedding_rows import write
from .test_embedder import ROUNDING, VIT

pytestmark = pytest.mark.ray

TOKEN = "0123456789abcdef"
QUEUE_IMAGES_MAX, BODY_BYTES_MAX = 6, 50_000
TIMEOUT_S = 60.0


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    port: int
    embedder: ImageEmbedder
    about: dict[str, Any]
    told: list[str]
    end: Callable[[], None]

    def ask(self, path: str, body: bytes | None = None, token: str = TOKEN, **headers: str) -> Answer:
        """Content-Type is image/png unless `headers` say another (with _ for -)."""
        named = {"Content-Type": "image/png", "Authorization": f"Bearer {token}"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, named)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def held(self) -> int:
        return self.ask("/health").json["requests_held"]

    @contextlib.contextmanager
    def half_sent(self, image: bytes) -> Iterator[Callable[[], Answer]]:
        """A request that lacks the last byte of its body; the value sends it and gives the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S) as connection:
            head = (
                f"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
                f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(image)}\r\n\r\n"
            )
            connection.sendall(head.encode() + image[:-1])

            def finished() -> Answer:
                connection.sendall(image[-1:])
                response = HTTPResponse(connection)
                response.begin()
                return Answer(response.status, response.headers, response.read())

            yield finished


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


PICTURES = [picture(seed) for seed in range(QUEUE_IMAGES_MAX)]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline, true
        time.sleep(0.02)


def listens(port: int) -> bool:
    with (
        contextlib.suppress(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S),
    ):
        return True
    return False


def packed_vit() -> PackedNetwork:
    return packed("random", load_backbone(VIT, ObjectStoreSpec()))


@ray.remote
class Others:
    """Somebody else's work, that takes the cluster."""


def test_a_proxy_that_does_not_start_is_said_in_words(
    ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(**options: Any) -> None:
        raise TimeoutError("HTTP proxies not available after 60s.")

    monkeypatch.setattr(lifetime.serve, "start", start)
    spec = serve_spec({"weights": VIT, "replicas": {"gpus_each": 0.0}})
    words = r"127.0.0.1:8000: Ray Serve does not start \(HTTP proxies not available"
    with pytest.raises(ClusterError, match=words), serving(Served(spec, []), print):
        pass


@pytest.fixture(scope="module")
def server(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """All images in one batch that waits for them long; embeddings of the pictures to search in.

    The cluster has no room before a line is told, and where the weights were from there is nothing any more.
    """
    folder = tmp_path_factory.mktemp("embeddings")
    network = packed_vit()
    embedder = ImageEmbedder(network, 10_000, torch.device("cpu"))
    rows = np.stack([embedder.features([embedder.view(encoded)])[0] for encoded in PICTURES])
    write(folder / "all.parquet", [f"picture-{number}" for number in range(len(PICTURES))], rows)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spec = serve_spec(
        {
            "weights": WeightsSpec(run=str(folder / "gone")),
            "neighbours": str(folder),
            "replicas": {"cpus_each": 0.5, "gpus_each": 0.0},
            "images_per_batch_max": len(PICTURES),
            "batch_wait_ms": 200.0,
            "queue_images_max": QUEUE_IMAGES_MAX,
            "body_bytes_max": BODY_BYTES_MAX,
            "image_pixels_max": 10_000,
            "neighbours_max": 4,
            "port": port,
        }
    )
    names = frozenset({"127.0.0.1", "localhost"})
    others = Others.options(num_cpus=ray_cluster.cpus).remote()
    ray.get(others.__ray_ready__.remote())
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        ray.kill(others)

    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifetime, "SILENCE_S", 2.0)
        served = Served(spec, [ray.put(network)], token_digest(TOKEN), names)
        about = stack.enter_context(serving(served, tell))
        yield Server(port, embedder, about, told, stack.close)


def test_who_waits_is_told_for_what(server: Server) -> None:
    (line,) = server.told
    assert line.startswith("waiting for room, or for the network to load: 1 replicas ask for 0.5 CPUs")
    assert line.endswith("free on the cluster: 0 CPUs, 0 GPUs")


def test_an_embedding_is_evaluations_in_every_form(server: Server) -> None:
    image = PICTURES[0]
    expected = server.embedder.features([server.embedder.view(image)])[0]
    answer = server.ask("/embed", image)
    assert answer.status == 200
    assert np.abs(np.array(answer.json["embedding"]) - expected).max() <= ROUNDING * np.abs(expected).max()
    assert answer.json["weights"] == answer.headers["x-weights-digest"] == server.embedder.digest
    raw = server.ask("/embed", image, Accept="application/octet-stream")
    assert raw.headers["content-type"] == "application/octet-stream"
    assert np.frombuffer(raw.body, "<f4").tolist() == answer.json["embedding"]
    form = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    formed = server.ask(
        "/embed", form + image + b"\r\n--B--\r\n", Content_Type="multipart/form-data; boundary=B"
    )
    assert formed.json == answer.json


def test_images_that_come_together_keep_their_rows(server: Server) -> None:
    alone = [server.embedder.features([server.embedder.view(image)])[0] for image in PICTURES]
    with ThreadPoolExecutor(len(PICTURES)) as clients:
        answers = list(clients.map(lambda image: server.ask("/embed", image), PICTURES))
    assert [answer.status for answer in answers] == [200] * len(PICTURES)
    rows = np.array([answer.json["embedding"] for answer in answers])
    assert np.abs(rows - np.stack(alone)).max() <= ROUNDING * np.abs(alone).max()


def test_neighbours_are_the_nearest_keys(server: Server) -> None:
    assert server.about["rows"] == len(PICTURES)
    for number in (1, 4):
        found = server.ask("/neighbours?k=3", PICTURES[number]).json["neighbours"]
        assert found[0]["key"] == f"picture-{number}"
        assert found[0]["similarity"] == pytest.approx(1.0, abs=1e-5)
        similarities = [row["similarity"] for row in found]
        assert len(similarities) == 3
        assert similarities == sorted(similarities, reverse=True)
    assert (
        server.ask("/neighbours?k=5", PICTURES[0]).json["error"] == "k: 5; allowed: 1 to 4; next: change it"
    )


def test_what_cannot_be_answered_says_why(server: Server) -> None:
    image = PICTURES[0]
    large = io.BytesIO()
    Image.new("RGB", (200, 100)).save(large, "PNG")
    for answer, status, words in (
        (server.ask("/embed", b"x" * (BODY_BYTES_MAX + 1)), 413, "allowed: 50000 bytes"),
        (server.ask("/embed", image, Content_Type="text/plain"), 415, "Content-Type text/plain"),
        (server.ask("/embed", b"no image"), 422, "not a JPEG, PNG, WebP, GIF or BMP"),
        (server.ask("/embed", image[:-40]), 422, "truncated PNG"),
        (server.ask("/embed", large.getvalue()), 422, "200x100 pixels, more than image_pixels_max 10000"),
        (server.ask("/embed", image, token="another"), 401, "Authorization"),
        (server.ask("/embed", image, Host="attacker.example"), 421, "attacker.example"),
        (server.ask("/embed"), 405, "method: GET; allowed: POST"),
        (server.ask("/nowhere", image), 404, "/embed, /neighbours, /health, /metrics"),
    ):
        assert (answer.status, words in answer.json["error"]) == (status, True), answer.body
    assert server.ask("/embed", image).status == 200


def test_health_needs_no_token_and_tells_more_with_it(server: Server) -> None:
    assert server.ask("/health", token="").json == {"status": "ok"}
    told = server.ask("/health").json
    assert (told["digest"], told["features"], told["image_size"]) == (server.embedder.digest, 48, 32)


def test_a_full_queue_is_429_and_health_is_answered_meanwhile(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(server.half_sent(image)) for image in PICTURES]
        until(lambda: server.held() == QUEUE_IMAGES_MAX)
        refused = server.ask("/embed", PICTURES[0])
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "6 requests are held already" in refused.json["error"]
        assert [finished().status for finished in waiting] == [200] * len(waiting)
    assert server.held() == 0


def test_a_second_server_is_refused_on_the_same_cluster(server: Server) -> None:
    spec = serve_spec({"weights": VIT, "port": server.port})
    with pytest.raises(ClusterError, match="Ray Serve runs there already"), serving(Served(spec, []), print):
        pass


def has_figure(figures: Callable[[], list[str]], name: str, label: str) -> bool:
    return any(line.startswith(name + "{") and label in line for line in figures())


def batches(lines: list[str], of_one_image: bool = False) -> float:
    """Forward passes of all replicas. (Ray's sum of a histogram is made of the middles of its buckets.)"""
    name = f"ray_syn2co_serve_batch_images_{'bucket' if of_one_image else 'count'}{{"
    label = 'le="1.0"' if of_one_image else ""
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and label in line)


def test_figures_of_ours_and_of_ray_serve_are_on_one_page(server: Server) -> None:
    assert server.ask("/metrics", token="").status == 401

    def figures() -> list[str]:
        page = server.ask("/metrics").body.decode()
        return [line for line in page.splitlines() if not line.startswith("#")]

    # Each process's figures reach Ray's agent on their own, within 10 s.
    for name, label in (
        ("ray_syn2co_serve_requests_total", 'page="/embed"'),
        ("ray_syn2co_serve_rejected_total", 'reason="queue_full"'),
        ("ray_syn2co_serve_rejected_total", 'reason="unreadable_image"'),
        ("ray_syn2co_serve_batch_images_count", 'deployment="Images"'),
        ("ray_syn2co_serve_latency_seconds_bucket", 'page="/neighbours"'),
        ("ray_serve_num_http_requests_total", 'route="/"'),
    ):
        until(partial(has_figure, figures, name, label))
    # Some images went through the network together. Figures of later batches come later.
    until(lambda: batches(figures()) > batches(figures(), of_one_image=True) > 0)
    lines = figures()
    assert all(line.startswith(("ray_serve_", "ray_syn2co_serve_")) for line in lines)


def test_the_end_answers_what_is_in_flight(server: Server) -> None:
    with server.half_sent(PICTURES[2]) as finished:
        until(lambda: server.held() == 1)
        ending = threading.Thread(target=server.end)
        ending.start()
        # The address is taken away first; the request that it let in before is still held then.
        until(lambda: server.ask("/health").status != 200)
        answer = finished()
    ending.join(TIMEOUT_S)
    assert answer.status == 200
    expected = server.embedder.features([server.embedder.view(PICTURES[2])])[0]
    assert np.abs(np.array(answer.json["embedding"]) - expected).max() <= ROUNDING * np.abs(expected).max()
    # Ray kills the proxy without waiting for its process.
    until(lambda: not listens(server.port))
