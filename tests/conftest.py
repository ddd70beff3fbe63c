"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from syn2co_ray.storage import retry

from .azure_store import AzureStore, azure_store_is_installed, running_azure_store
from .faulty_store import FaultyStore, running_faulty_store
from .faulty_store import missing_binaries as missing_for_faults
from .object_store import ObjectStore, missing_binaries, running_object_store


@pytest.fixture(autouse=True)
def no_store_has_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test meets stores as a new process does: one that served another test is not waited for."""
    monkeypatch.setattr(retry, "_served", set())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for torch: exactness is claimed for equal thread counts."""
    import torch  # seconds, which most tests need not wait for

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with reference data that is not part of the project; tests that need it skip without it."""
    path = Path(os.environ.get("SYN2CO_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not path.is_dir():
        pytest.skip(f"needs the shared reference folder ({path}); set SYN2CO_SHARED to its path")
    return path


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """A real S3 server (Ceph's gateway), started once for the session; mark tests with `object_store`."""
    missing = missing_binaries()
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: radosgw ceph-mon ceph-osd)")
    with running_object_store() as store:
        yield store


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch, object_store: ObjectStore) -> ObjectStore:
    """The S3 server, with the AWS_* variables of this process set to it."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return object_store


@pytest.fixture(scope="session")
def _faulty_store(object_store: ObjectStore) -> Iterator[FaultyStore]:
    missing = missing_for_faults()
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: haproxy)")
    with running_faulty_store(object_store) as store:
        yield store


@pytest.fixture
def faulty_store(monkeypatch: pytest.MonkeyPatch, _faulty_store: FaultyStore) -> Iterator[FaultyStore]:
    """The S3 server behind a proxy that can be told to fail; this process's AWS_* variables lead through it."""
    for name, value in _faulty_store.store.environment.items():
        monkeypatch.setenv(name, value)
    yield _faulty_store
    _faulty_store.heal()


@pytest.fixture(scope="session")
def azure_store() -> Iterator[AzureStore]:
    """Azurite, started once for the session; mark tests with `azure`."""
    if not azure_store_is_installed():
        pytest.skip("needs azurite-blob (npm install -g azurite)")
    pytest.importorskip("azure.storage.blob", reason="needs the extra `azure`")
    with running_azure_store() as store:
        yield store


@pytest.fixture
def azure_environment(monkeypatch: pytest.MonkeyPatch, azure_store: AzureStore) -> AzureStore:
    """Azurite, with this process's environment set to it."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure_store.connection_string())
    return azure_store


@pytest.fixture(
    params=[
        "local",
        pytest.param("s3", marks=pytest.mark.object_store),
        pytest.param("az", marks=pytest.mark.azure),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty place of the test's own: a local folder, a prefix of the S3 server, one of Azurite."""
    if request.param == "local":
        return str(tmp_path / "place")
    if request.param == "az":
        azure = request.getfixturevalue("azure_environment")
        return f"{azure.make_container('places')}/{uuid.uuid4().hex}"
    store = request.getfixturevalue("s3_environment")
    return f"{store.make_bucket('places')}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def ray_cluster():
    """One small Ray cluster for the whole session (starting one takes many seconds)."""
    from syn2co_ray.submit.cluster import connected

    with connected() as cluster:
        yield cluster
