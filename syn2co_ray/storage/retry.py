"""Bounded retries of what may pass, and one clear error for what will not."""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from ..spec.errors import StorageError
from .filesystem import credentials

Result = TypeVar("Result")

PATIENCE_S = 180.0
"""How long an operation is tried again: longer than a store takes to restart."""
CREDENTIALS_PATIENCE_S = 60.0
"""How long, when credentials that were accepted before are refused: until new ones have been written."""
DELAY_MAX_S = 10.0
SAY_AFTER_S = 10.0
"""When somebody who looks on would begin to wonder."""

_log = logging.getLogger(__name__)

_TRANSIENT = re.compile(
    r"SLOW_?DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIME(D_)?OUT|REQUEST_LIMIT_EXCEEDED|THROTTLING"
    r"|HTTP status (429|5\d\d)|NETWORK_CONNECTION|curlCode: (18|28|35|52|55|56)\b"
    r"|Connection reset|timed? ?out|\bUNAVAILABLE\b|DEADLINE_EXCEEDED"
    r"|Azure Error: \[[^]]*\] (408|429|5\d\d)|Fail to get a new connection"
    # An upload whose completion was answered into a broken connection is unknown when it is completed again.
    r"|NO_?SUCH_?UPLOAD",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(
    r"curlCode: (5|6|7)\b|CURL error \[(5|6|7)\]|Couldn't connect|Could not resolve|\bConnectError\b"
)
_DENIED = re.compile(
    r"ACCESS_DENIED|SIGNATURE_DOES_NOT_MATCH|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|EXPIRED_TOKEN"
    r"|HTTP status 40[13]|PERMISSION_DENIED|UNAUTHENTICATED"
    r"|Azure Error: \[[^]]*\] 40[13]|AuthenticationException|PublicAccessNotPermitted",
    re.IGNORECASE,
)
_FULL = re.compile(r"QuotaExceeded|StorageFull|InsufficientStorage|HTTP status 507", re.IGNORECASE)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|ContainerNotFound", re.IGNORECASE)
_NO_OBJECT = re.compile(r"NO_SUCH_KEY|NOT_FOUND|HTTP status 404", re.IGNORECASE)
_OTHER_REGION = re.compile(r"HTTP status 301|PERMANENT_?REDIRECT|AuthorizationHeaderMalformed", re.IGNORECASE)
_CREDENTIALS = {
    "s3": (
        ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN"),
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where it runs, and check the policy",
    ),
    "gs": (
        ("GOOGLE_APPLICATION_CREDENTIALS",),
        "set GOOGLE_APPLICATION_CREDENTIALS where it runs, and check the bucket's permissions",
    ),
    "az": (
        (
            "AZURE_STORAGE_CONNECTION_STRING",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_CLIENT_ID",
        ),
        "set AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN where it "
        "runs, or give its identity a role on the container",
    ),
    "hf": (("HF_TOKEN",), "set HF_TOKEN where it runs, and accept the data set's terms on its page"),
}
"""By scheme: variables that say who asks, and what to do when the store says no."""
_ENDPOINTS = {
    "s3": "object_store.endpoint_url or AWS_ENDPOINT_URL",
    "gs": "STORAGE_EMULATOR_HOST",
    "az": "AZURE_STORAGE_CONNECTION_STRING",
    "hf": "HF_ENDPOINT",
}
_PLACE = re.compile(r"\b(\w+)://([^/]*)")
_CHECKSUM = re.compile(r"HTTP status 411|MissingContentLength")
_STORES = re.compile(r"AWS Error|google::cloud|curlCode|Azure Error|Azure.*Exception")
_TRANSIENT_ERRNO = {
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.EPIPE,
}


def with_retries(
    operation: Callable[[], Result],
    *,
    what: str,
    patience_s: float = PATIENCE_S,
    base_delay_s: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Run `operation` until it succeeds, or has failed for `patience_s`.

    Timeouts, connection resets, 5xx and SlowDown are tried again after a delay drawn evenly from
    [0, base_delay_s 2^k], at most 10 s ("full jitter", so that many workers do not come back at once); so are
    a store out of reach that has served this process before, and, for CREDENTIALS_PATIENCE_S, refused
    credentials with which the same was allowed before. Any other OSError becomes a StorageError at once. What
    is no OSError (a DataError, a bug) passes through.

    Args:
        operation: must be safe to repeat.
        what: the action and its path, such as "read s3://bucket/key"; the error's `where`.
        patience_s: no new attempt begins later than this after the first.
        base_delay_s: upper end of the first delay.
        sleep: waits for the seconds it is given.
        clock: seconds that pass.

    Raises:
        StorageError: missing bucket or object, refused credentials, endpoint out of reach, still failing.
    """
    # Delays only spread load in time; no result depends on them, so they need no seed.
    jitter = random.Random()
    began, attempt, said = clock(), 0, False
    while True:
        try:
            result = operation()
            _served.update(_services(what))
            return result
        except Exception as raised:
            error = _as_os_error(raised)
            if error is None:
                raise
            patience = min(patience_s, _patience_s(error, what))
            if patience == 0:
                raise translate(error, what) from raised
            delay_s = jitter.uniform(0, min(DELAY_MAX_S, base_delay_s * 2**attempt))
            attempt += 1
            waited_s = clock() - began
            if waited_s + delay_s > patience:
                if not is_transient(error):
                    raise translate(error, what) from raised
                raise StorageError(
                    where=what,
                    got=f"still failing after {attempt} attempts in {waited_s:.0f} s: {error}",
                    allowed="a store that answers",
                    next_step="check the store's health and load, then start again: the run resumes",
                ) from raised
            if waited_s >= SAY_AFTER_S and not said:
                _log.warning(
                    "%s: %s; trying again for up to %.0f s", what, _last_words(_words(error)), patience
                )
                said = True
            sleep(delay_s)


_Service = tuple[str | None, ...]
_served: set[_Service] = set()
"""What stores have done for this process: see `_services`."""


def _services(what: str) -> tuple[_Service, ...]:
    """What a success proves: the scheme's store can be reached; these credentials may do this there."""
    found = _PLACE.search(what)
    if found is None:
        return ()
    return (found[1],), (what[: found.start()], found[1], found[2], *credentials())


def _patience_s(error: OSError, what: str) -> float:
    """How long it makes sense to try again; 0 for what will not pass."""
    if _is_full(error):
        return 0.0
    if is_transient(error):
        return PATIENCE_S
    served = [service in _served for service in _services(what)] or [False, False]
    if _is_unreachable(error) and served[0]:
        return PATIENCE_S
    if _DENIED.search(_words(error)) and served[1]:
        return CREDENTIALS_PATIENCE_S
    return 0.0


def _as_os_error(error: Exception) -> OSError | None:
    """The error as an OSError if a store's client raised it, else None."""
    if isinstance(error, OSError):
        return error
    if type(error).__module__.startswith("httpx"):
        # The hub's client: what it has from a server is an OSError, what it has from the network is not.
        return ConnectionError(f"{type(error).__name__}: {error}")
    if isinstance(error, pa.ArrowException) and _STORES.search(str(error)):
        return OSError(str(error))
    return None


def is_transient(error: OSError) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, FileNotFoundError | PermissionError | ConnectionRefusedError):
        return False
    text = _words(error)
    if _UNREACHABLE.search(text) or _DENIED.search(text) or _is_full(error):
        return False
    if isinstance(error, TimeoutError | ConnectionError) or error.errno in _TRANSIENT_ERRNO:
        return True
    return _TRANSIENT.search(text) is not None


def _is_full(error: OSError) -> bool:
    # Some stores say it with the status of a refusal (403), some with one of a fault (507).
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(_words(error)) is not None


def _is_unreachable(error: OSError) -> bool:
    return isinstance(error, ConnectionRefusedError) or _UNREACHABLE.search(_words(error)) is not None


def is_from_store(error: Exception) -> bool:
    """Whether a store said so, not a decoder that met broken contents (pyarrow raises OSError for both)."""
    known = isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError)
    return known or _STORES.search(str(error)) is not None


def translate(error: OSError, what: str) -> StorageError:
    """The StorageError that says what `error` means and what to do about it."""
    text = _words(error)
    if _is_unreachable(error):
        return StorageError(
            where=what,
            got=f"the endpoint cannot be reached ({_last_words(text)})",
            allowed="a store that accepts connections from this machine",
            next_step=f"check {_ENDPOINTS.get(_scheme(what), _ENDPOINTS['s3'])}, and that the store is up",
        )
    if _is_full(error):
        return StorageError(
            where=what,
            got="no space is left there, or a quota is used up",
            allowed="a place with room for it",
            next_step="free space, raise the quota, or choose another place; what is there stays whole",
        )
    if _DENIED.search(text):
        return _denied(text, what)
    if _NO_BUCKET.search(text):
        bucket = re.search(r"in bucket '([^']*)'", text)
        return StorageError(
            where=what,
            got=f"there is no bucket {bucket.group(1)!r}" if bucket else "there is no such bucket",
            allowed="a bucket that exists at this endpoint",
            next_step="check the bucket's name and object_store.endpoint_url, or create the bucket",
        )
    return _translate_path(error, text, what)


def _translate_path(error: OSError, text: str, what: str) -> StorageError:
    if isinstance(error, FileNotFoundError) or _NO_OBJECT.search(text):
        # A store answers a question about one object in a missing bucket with the same 404.
        got = {
            "": "there is no such file or folder",
            "hf": "the hub has no such data set, commit or file, or shows it only to whom it knows",
        }.get(_scheme(what), "there is no such object, or no such bucket")
        next_step = "check the path; list the folder above it"
    elif isinstance(error, NotADirectoryError):
        got, next_step = "it is a file, not a folder", "give the folder that holds it"
    elif isinstance(error, PermissionError):
        got, next_step = "this user may not do that", "change the permissions or the path"
    elif _OTHER_REGION.search(text):
        got, next_step = "the bucket is in another region", "set object_store.region or AWS_DEFAULT_REGION"
    elif _CHECKSUM.search(text):
        got = "the store refuses checksum trailers (411)"
        next_step = "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required before the process starts"
    else:
        got, next_step = f"the store failed: {text}", "see the store's answer"
    return StorageError(where=what, got=got, allowed="a path that can be used", next_step=next_step)


def _denied(text: str, what: str) -> StorageError:
    code = re.search(r"AWS Error ([A-Z_]+)|Azure Error: \[(\w+)\]", text)
    reason = f"credentials were refused ({code.group(1) or code.group(2) if code else _last_words(text)})"
    names, next_step = _CREDENTIALS.get(_scheme(what), _CREDENTIALS["s3"])
    named = [name for name in names if os.environ.get(name)]
    given = f"{', '.join(named)} set" if named else f"no {_any_of(names)} set"
    return StorageError(
        where=what,
        got=f"{reason}; {given} in the environment of this process",
        allowed="credentials with access to this bucket, or object_store.anonymous for a public one",
        next_step=next_step,
    )


def _any_of(names: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _scheme(what: str) -> str:
    found = _PLACE.search(what)
    return found[1] if found else ""


def _words(error: OSError) -> str:
    # The hub's client keeps the status apart from what it says.
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"{error} (HTTP status {status})" if status else str(error)


def _last_words(text: str) -> str:
    return text.rsplit("; Details: ", 1)[-1].rsplit(" operation: ", 1)[-1].strip()[:200]
