"""az://container/prefix: Arrow's own client reads, lists and deletes; Azure's own uploads.

Arrow truncates a blob when it opens it for writing, so that a killed upload would leave an empty one. Azure's
client is an extra, which only writing needs: `pip install 'syn2co_ray[azure]'`.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from ..spec.errors import StorageError

CREDENTIAL_VARIABLES = (
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
)
BLOCK_BYTES = 16 << 20
"""Size of one part of an upload; Azure takes up to 50,000 of them, so a file up to 780 GiB."""


@dataclass(frozen=True)
class Account:
    """A storage account and how to prove who asks."""

    name: str
    endpoint: str
    """URL of its blob service: https://name.blob.core.windows.net, or http://host:port/name (an emulator)."""
    key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)

    @property
    def path_style(self) -> bool:
        """Whether the account's name is the endpoint's path, not the beginning of its host."""
        return not urlsplit(self.endpoint).netloc.startswith(f"{self.name}.")


def account_from_environment() -> Account:
    """The account that the environment names; a connection string goes before single variables.

    Names as the Azure CLI and fsspec's driver read them. Without key or SAS token, Azure's own chain is asked
    (workload or managed identity, environment, CLI login).

    Raises:
        StorageError: no account is named.
    """
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part) if text else {}
    single = _variable("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    name = parts.get("AccountName") if text else single
    if not name:
        raise StorageError(
            where="AZURE_STORAGE_CONNECTION_STRING" if text else "az://",
            got="no AccountName in it" if text else "no storage account named in the environment",
            allowed="AZURE_STORAGE_ACCOUNT_NAME, or AZURE_STORAGE_CONNECTION_STRING with AccountName",
            next_step="set one of them where it runs; a container's name does not say whose it is",
        )
    if not text:
        key = _variable("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")
        sas_token = _variable("AZURE_STORAGE_SAS_TOKEN")
        return Account(name, f"https://{name}.blob.core.windows.net", key, sas_token)
    scheme = parts.get("DefaultEndpointsProtocol", "https")
    suffix = parts.get("EndpointSuffix", "core.windows.net")
    endpoint = parts.get("BlobEndpoint", f"{scheme}://{name}.blob.{suffix}").rstrip("/")
    return Account(name, endpoint, parts.get("AccountKey"), parts.get("SharedAccessSignature"))


@lru_cache(maxsize=8)
def azure_filesystem(anonymous: bool, credentials: tuple[str | None, ...]) -> fs.FileSystem:
    """This process's client, for reading; `credentials` only tells environments apart."""
    account = account_from_environment()
    url = urlsplit(account.endpoint)
    if anonymous:
        # Arrow offers this way of asking in its URIs only.
        user = f"{account.name}@" if account.path_style else ""
        tls = str(url.scheme == "https").lower()
        uri = f"abfs://{user}{url.netloc}/any?credential_kind=anonymous&enable_tls={tls}"
        return fs.FileSystem.from_uri(uri)[0]
    authority = url.netloc if account.path_style else url.netloc.removeprefix(account.name)
    return fs.AzureFileSystem(
        account.name,
        account_key=account.key,
        sas_token=None if account.key else account.sas_token,
        blob_storage_authority=authority,
        blob_storage_scheme=url.scheme,
        dfs_storage_authority=authority.replace(".blob.", ".dfs.", 1),
        dfs_storage_scheme=url.scheme,
    )


def upload_blob(path: str, data: pa.Buffer, credentials: tuple[str | None, ...]) -> None:
    """Write container/name whole or not at all: its blocks are seen when the list of them is committed.

    Raises:
        OSError: as Arrow's client words it, so that retries know what may pass.
    """
    blob = _service(credentials).get_blob_client(*path.split("/", 1))
    from azure.core.exceptions import AzureError

    try:
        if data.size <= BLOCK_BYTES:
            blob.upload_blob(data.to_pybytes(), overwrite=True)
        else:
            _upload_blocks(blob, data)
    except AzureError as error:
        raise _as_os_error(error) from error


def _upload_blocks(blob: Any, data: pa.Buffer) -> None:
    from azure.storage.blob import BlobBlock

    # Names that no other writer has: with `upload_blob`'s, which are offsets, two could mix their parts.
    names = []
    for start in range(0, data.size, BLOCK_BYTES):
        names.append(secrets.token_hex(16))
        blob.stage_block(names[-1], data.slice(start, min(BLOCK_BYTES, data.size - start)).to_pybytes())
    blob.commit_block_list([BlobBlock(name) for name in names])


@lru_cache(maxsize=8)
def _service(credentials: tuple[str | None, ...]) -> Any:
    try:
        from azure.core.credentials import AzureSasCredential
        from azure.identity import DefaultAzureCredential
        from azure.storage.blob import BlobServiceClient
    except ImportError as error:
        raise StorageError(
            where="az://",
            got=f"writing needs Azure's client, which is not installed ({error})",
            allowed="the extra `azure`; reading needs none",
            next_step="pip install 'syn2co_ray[azure]' on every machine that writes there",
        ) from error
    account = account_from_environment()
    credential: Any
    if account.key:
        credential = {"account_name": account.name, "account_key": account.key}
    else:
        sas = account.sas_token
        credential = AzureSasCredential(sas) if sas else DefaultAzureCredential()
    return BlobServiceClient(account.endpoint, credential=credential)


def _as_os_error(error: Any) -> OSError:
    from azure.core.exceptions import ClientAuthenticationError

    status, code = getattr(error, "status_code", None), getattr(error, "error_code", None)
    first = (str(error).splitlines() or [""])[0]
    if status is None and isinstance(error, ClientAuthenticationError):
        return OSError(f"AuthenticationException: {first}")
    if status is None:
        return ConnectionError(f"Azure Error: [] {first}")
    # A writer of the same name has thrown away the blocks of this one: it may come out first next time.
    kind = ConnectionError if code == "InvalidBlockList" else OSError
    return kind(f"Azure Error: [{getattr(code, 'value', code) or ''}] {status} {first}")


def _variable(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)
