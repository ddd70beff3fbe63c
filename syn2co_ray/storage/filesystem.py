"""From a URI to a filesystem and a path inside it. Credentials come from the environment only."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from pyarrow import fs

from ..spec.errors import StorageError
from ..spec.source import ObjectStoreSpec
from . import azure, hub

S3_ATTEMPTS = 10
"""Times that the S3 client itself sends one request before it gives up (exponential backoff, jitter)."""
CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 30.0
"""How long a store may stay silent in the middle of an S3 request."""
GOOGLE_PATIENCE_S = 60.0
ENDPOINT_PATIENCE_S = 15.0
"""How long a process waits for an S3-compatible endpoint to accept its first connection. The client's own
patience is over a minute, which is right in the middle of a run and wrong for a mistyped address."""

_SCHEMES = ("file", "s3", "gs", "az", "hf", "memory")
# A change of any of these makes a new client: a client reads them once, when it is made.
_CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "STORAGE_EMULATOR_HOST",
    *azure.CREDENTIAL_VARIABLES,
    *hub.CREDENTIAL_VARIABLES,
)


@dataclass(frozen=True)
class Store:
    """A place that holds files: a local folder or a prefix of a bucket.

    It pickles as its URI and options, never as a client or its credentials; each process makes its own client
    on first use and shares it among all stores of the same kind. A memory:// store is private to a process.
    """

    uri: str
    """Absolute and without a trailing slash; a local place has no scheme."""
    options: ObjectStoreSpec

    @property
    def scheme(self) -> str:
        """file, s3, gs, az, hf or memory."""
        return self.uri.partition("://")[0] if "://" in self.uri else "file"

    @property
    def path(self) -> str:
        """Path inside the filesystem: /folder/... or bucket/prefix/..."""
        return self.uri.partition("://")[2] if "://" in self.uri else self.uri

    @property
    def filesystem(self) -> fs.FileSystem:
        """This process's client. StorageError when the endpoint does not answer at all."""
        return _filesystem(self.scheme, self.path.partition("/")[0], self.options, credentials())

    @property
    def endpoint(self) -> str:
        """Where stores of this scheme are asked: with the URI it names a file among all there are."""
        if self.scheme == "s3":
            return _endpoint(self.options) or ""
        if self.scheme == "az":
            return azure.account_from_environment().endpoint
        variable = {"gs": "STORAGE_EMULATOR_HOST", "hf": "HF_ENDPOINT"}.get(self.scheme, "")
        return os.environ.get(variable, "")

    def child(self, *parts: str) -> Store:
        """The place below this one; parts may themselves contain slashes."""
        names = [name for part in parts for name in part.split("/") if name]
        return Store("/".join([self.uri.rstrip("/"), *names]), self.options)


def open_store(uri: str, options: ObjectStoreSpec) -> Store:
    """The place that `uri` names; nothing is contacted until it is used.

    Args:
        uri: a local path (a relative one starts at the working directory), file://, s3://bucket/prefix,
            gs://bucket/prefix, az://container/prefix, hf://datasets/owner/name@commit/path, or memory://name.
        options: endpoint, region and anonymous access of object stores.

    Raises:
        StorageError: unknown scheme, no bucket, no commit, or an endpoint that is not a URL.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Store(os.path.abspath(os.path.expanduser(uri)), options)
    if scheme not in _SCHEMES:
        raise StorageError(
            where=uri,
            got=f"unknown scheme {scheme}://",
            allowed="a local path, file://, s3://, gs://, az://, hf:// or memory://",
            next_step="check the spelling of the URI",
        )
    if scheme == "file":
        return Store(os.path.abspath("/" + rest.lstrip("/")), options)
    inside = "/".join(name for name in rest.split("/") if name)
    if not inside or rest.startswith("/"):
        raise StorageError(
            where=uri,
            got="no bucket in the URI" if scheme != "memory" else "no name in the URI",
            allowed=f"{scheme}://name/prefix",
            next_step="write the bucket's name after ://",
        )
    if scheme == "s3":
        _endpoint(options)
    if scheme == "hf":
        hub.check_hub_path(uri, inside)
    return Store(f"{scheme}://{inside}", options)


def _endpoint(options: ObjectStoreSpec) -> str | None:
    endpoint = options.endpoint_url or os.environ.get("AWS_ENDPOINT_URL") or None
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise StorageError(
            where="object_store.endpoint_url" if options.endpoint_url else "AWS_ENDPOINT_URL",
            got=f"{endpoint!r} is not a URL",
            allowed="http://host:port or https://host",
            next_step="write the scheme in front",
        )
    return endpoint


def credentials() -> tuple[str | None, ...]:
    """What the environment says about who asks: clients are kept as long as it stays the same."""
    return (*(os.environ.get(name) for name in _CREDENTIAL_VARIABLES), _age_of_credentials_file())


def _age_of_credentials_file() -> str:
    # Keys that expire are refreshed in this file, which the client itself would read again after minutes.
    name = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    try:
        return str(os.stat(os.path.expanduser(name)).st_mtime_ns)
    except OSError:
        return ""


def _filesystem(
    scheme: str, bucket: str, options: ObjectStoreSpec, credentials: tuple[str | None, ...]
) -> fs.FileSystem:
    if scheme == "file":
        return fs.LocalFileSystem()
    if scheme == "memory":
        return _memory()
    if scheme == "gs":
        return _google(options.anonymous, credentials)
    if scheme == "az":
        return azure.azure_filesystem(options.anonymous, credentials)
    if scheme == "hf":
        return hub.hub_filesystem(options.anonymous, credentials)
    endpoint = _endpoint(options)
    region = options.region or os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")
    if region is None:
        region = _region_of(bucket) if endpoint is None else "us-east-1"
    return _s3(endpoint, region, options.anonymous, credentials)


@lru_cache(maxsize=1)
def _memory() -> fs.FileSystem:
    import fsspec

    return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory")))


@lru_cache(maxsize=8)
def _google(anonymous: bool, credentials: tuple[str | None, ...]) -> fs.FileSystem:
    from datetime import timedelta

    return fs.GcsFileSystem(anonymous=anonymous, retry_time_limit=timedelta(seconds=GOOGLE_PATIENCE_S))


@lru_cache(maxsize=32)
def _s3(
    endpoint: str | None, region: str | None, anonymous: bool, credentials: tuple[str | None, ...]
) -> fs.FileSystem:
    if endpoint is not None and not _is_amazon(endpoint):
        # Ceph and other stores answer 411 to the checksum trailers that the client sends by default.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
        _wait_for_endpoint(endpoint)
    return fs.S3FileSystem(
        anonymous=anonymous,
        region=region,
        endpoint_override=endpoint,
        request_timeout=REQUEST_TIMEOUT_S,
        connect_timeout=CONNECT_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        # With a delayed open, Arrow follows a failed start of an upload by a PUT of what it has, on closing.
        allow_delayed_open=False,
    )


@lru_cache(maxsize=32)
def _region_of(bucket: str) -> str | None:
    try:
        return fs.resolve_s3_region(bucket)
    except OSError:
        # No such bucket, or no way to it: the first real request says which, in words.
        return None


def _is_amazon(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _wait_for_endpoint(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    deadline = time.monotonic() + ENDPOINT_PATIENCE_S
    delay_s = 0.1
    while True:
        try:
            socket.create_connection(address, timeout=CONNECT_TIMEOUT_S).close()
            return
        except OSError as error:
            if time.monotonic() + delay_s > deadline:
                raise StorageError(
                    where=endpoint,
                    got=f"the endpoint cannot be reached ({error})",
                    allowed="an S3-compatible store that accepts connections from this machine",
                    next_step="check object_store.endpoint_url or AWS_ENDPOINT_URL, and that the store is up",
                ) from error
        time.sleep(delay_s)
        delay_s *= 2
