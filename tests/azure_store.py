"""A blob store for tests that speaks Azure's protocol: Microsoft's Azurite, on 127.0.0.1 and a free port.

npm: `npm install -g azurite`. It checks signatures, and a blob is what the committed list of its blocks says.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "azurite-blob"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, the same everywhere and known to all."""
START_S = 60


@dataclass(frozen=True)
class AzureStore:
    """A running store: its account's endpoint."""

    authority: str

    @property
    def endpoint_url(self) -> str:
        return f"http://{self.authority}/{ACCOUNT}"

    def connection_string(self, key: str = KEY) -> str:
        """What AZURE_STORAGE_CONNECTION_STRING must say."""
        return f"AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={self.endpoint_url};"

    def make_container(self, name: str, public: bool = False) -> str:
        """Create the container unless it is there; returns az://name. `public`: anyone may read and list it."""
        from azure.core.exceptions import ResourceExistsError
        from azure.storage.blob import BlobServiceClient

        service = BlobServiceClient.from_connection_string(self.connection_string())
        with suppress(ResourceExistsError):
            service.create_container(name, public_access="container" if public else None)
        return f"az://{name}"


def azure_store_is_installed() -> bool:
    """Whether the program is on the PATH."""
    return shutil.which(PROGRAM) is not None


@contextmanager
def running_azure_store() -> Iterator[AzureStore]:
    """Start an empty store, yield it, stop it and delete its files."""
    with tempfile.TemporaryDirectory(prefix="syn2co-azurite-") as folder:
        log = Path(folder) / "log"
        command = [PROGRAM, "--location", folder, "--blobHost", "127.0.0.1", "--blobPort", "0"]
        # The kernel ends the server with us, so that a test run that is killed leaves nothing behind.
        command = ["setpriv", "--pdeathsig", "KILL", *command, "--skipApiVersionCheck", "--disableTelemetry"]
        with open(log, "wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            yield AzureStore(_authority(process, log))
        finally:
            process.kill()
            process.wait(timeout=30)


def _authority(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"listens on http://(\S+)", log.read_text()):
            return found.group(1)
        time.sleep(0.05)
    raise RuntimeError(f"azurite did not start in {START_S} s:\n{log.read_text()}")
