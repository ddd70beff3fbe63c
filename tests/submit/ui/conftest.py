"""A storage with one of each: runs, a search with trials, a generated data set; and a server of it."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from syn2co_ray.generate.data_set import CARD_FILE, DATASET_FILE, MANIFEST_FILE, REPORT_FOLDER, SHEET_FILE
from syn2co_ray.search.records import Evaluation, Record, Records
from syn2co_ray.spec.identity import resolved
from syn2co_ray.spec.load import load_job
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store
from syn2co_ray.submit.ui.server import LOOPBACK_NAMES, ui_app

from ...report.conftest import PNG, SPEC, RunFolder

SEARCH = Path(__file__).resolve().parents[3] / "jobs/search/digits_negatives.yaml"
HOSTILE = '<img src=x onerror="alert(1)">'


def fill(storage: Path) -> None:
    """Write the storage."""
    RunFolder(storage / "digits-synby-3fa9c1d2").write_finished()
    under_way = RunFolder(storage / "under-way-11111111")
    under_way.write("spec.yaml", SPEC.replace("digits-synby", "under-way"))
    under_way.write_steps(1, 40)
    under_way.write("metrics/eval-000000020.json", {"step": 20, "epoch": 2, "knn": {"20": 61.25}})
    RunFolder(storage / "broken-22222222").write("spec.yaml", "a: [")
    RunFolder(storage / "hostile-33333333").write("spec.yaml", yaml.safe_dump({"name": HOSTILE, "seed": 0}))
    search = RunFolder(storage / "search-44444444")
    search.write("spec.yaml", yaml.safe_dump(resolved(load_job(str(SEARCH)))))
    record = Record(0, 0, {"method.framework": "moby"}, 0, "trial-55555555", "finished")
    record.evaluations, record.value = [Evaluation(2, 71.5, 1.0)], 71.5
    Records(search.store).save(record)
    search.write("search.html", "<html><body><main><h1>the whole search</h1></main></body></html>")
    RunFolder(storage / "search-44444444/trials/trial-55555555").write_finished()
    data_set = RunFolder(storage / "generated")
    data_set.write(DATASET_FILE, {"name": "pets", "job": {"images": 512}})
    data_set.write(MANIFEST_FILE, {"rejected": {"flat": 3}, "images_per_label": {"cat": 256, "dog": 256}})
    data_set.write(CARD_FILE, "# pets\n")
    data_set.write(f"{REPORT_FOLDER}/{SHEET_FILE}", PNG)
    data_set.write("shard-000000-abc.parquet", b"")


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True)
class Client:
    """Sends what it is told to, byte for byte: no library tidies up the path."""

    port: int
    host: str = "127.0.0.1"

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": f"{self.host}:{self.port}", **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        found = Answer(answer.status, told, answer.read())
        connection.close()
        return found


def basic(password: str) -> str:
    """An Authorization header."""
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


Serve = Callable[..., Client]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Starts servers on free ports, for as long as the module's tests run."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra `ui`")
    running = []

    def start(*uris: str, token: str | None = None) -> Client:
        app = ui_app(uris, ObjectStoreSpec(), LOOPBACK_NAMES, token)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((server, thread))
        return Client(listening.getsockname()[1])

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(timeout=30)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled storage; a secret lies beside it."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "secret.png").write_bytes(PNG)
    (folder / "secret.json").write_text(json.dumps({"status": "secret"}))
    fill(folder / "runs")
    return folder / "runs"


@pytest.fixture(scope="module")
def client(serve: Serve, storage: Path) -> Client:
    """A server of the storage."""
    return serve(str(storage))


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test looks at a cluster of this machine by accident."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def cluster_address(ray_cluster, no_cluster: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Head of the session's cluster, named by RAY_ADDRESS for one test."""
    import ray

    address = str(ray.get_runtime_context().gcs_address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    return address


def store_of(uri: str):
    """The store of a place of these tests."""
    return open_store(uri, ObjectStoreSpec())
