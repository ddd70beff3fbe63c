"""Bounded retries of what may pass, and one clear error for what will not."""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from ..spec.errors import StorageError

Result = TypeVar("Result")

DELAY_MAX_S = 20.0

_TRANSIENT = re.compile(
    r"SLOW_?DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIME(D_)?OUT|REQUEST_LIMIT_EXCEEDED|THROTTLING"
    r"|HTTP status (429|5\d\d)|NETWORK_CONNECTION|curlCode: (18|28|35|52|55|56)\b"
    r"|Connection reset|timed? ?out|\bUNAVAILABLE\b|DEADLINE_EXCEEDED",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(r"curlCode: (5|6|7)\b|CURL error \[(5|6|7)\]|Couldn't connect|Could not resolve")
_DENIED = re.compile(
    r"ACCESS_DENIED|SIGNATURE_DOES_NOT_MATCH|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|EXPIRED_TOKEN"
    r"|HTTP status 40[13]|PERMISSION_DENIED|UNAUTHENTICATED",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket", re.IGNORECASE)
_NO_OBJECT = re.compile(r"NO_SUCH_KEY|NOT_FOUND|HTTP status 404", re.IGNORECASE)
_OTHER_REGION = re.compile(r"HTTP status 301|PERMANENT_?REDIRECT|AuthorizationHeaderMalformed", re.IGNORECASE)
_CHECKSUM = re.compile(r"HTTP status 411|MissingContentLength")
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
    attempts: int = 5,
    base_delay_s: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Run `operation` until it succeeds, at most `attempts` times.

    Timeouts, connection resets, 5xx and SlowDown are tried again after a delay drawn evenly from
    [0, base_delay_s 2^k], at most 20 s ("full jitter", so that many workers do not come back at once). Any
    other OSError becomes a StorageError at once. What is no OSError (a DataError, a bug) passes through.

    Args:
        operation: must be safe to repeat.
        what: the action and its path, such as "read s3://bucket/key"; the error's `where`.
        attempts: how often at most, at least 1.
        base_delay_s: upper end of the first delay.
        sleep: waits for the seconds it is given.

    Raises:
        StorageError: missing bucket or object, refused credentials, endpoint out of reach, still failing.
    """
    # Delays only spread load in time; no result depends on them, so they need no seed.
    jitter = random.Random()
    for attempt in range(attempts):
        try:
            return operation()
        except OSError as error:
            if not is_transient(error):
                raise translate(error, what) from error
            if attempt + 1 == attempts:
                raise StorageError(
                    where=what,
                    got=f"still failing after {attempts} attempts: {error}",
                    allowed="a store that answers",
                    next_step="check the store's health and load, then start again: the run resumes",
                ) from error
            sleep(jitter.uniform(0, min(DELAY_MAX_S, base_delay_s * 2**attempt)))
    raise ValueError(f"attempts must be at least 1, got {attempts}")


def is_transient(error: OSError) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, FileNotFoundError | PermissionError | ConnectionRefusedError):
        return False
    text = str(error)
    if _UNREACHABLE.search(text) or _DENIED.search(text):
        # The S3 client has itself tried for a minute to reach the store before it says so.
        return False
    if isinstance(error, TimeoutError | ConnectionError) or error.errno in _TRANSIENT_ERRNO:
        return True
    return _TRANSIENT.search(text) is not None


def is_from_store(error: OSError) -> bool:
    """Whether a store said so, not a decoder that met broken contents (pyarrow raises OSError for both)."""
    known = error.errno is not None or type(error) is not OSError
    return known or re.search(r"AWS Error|google::cloud|curlCode", str(error)) is not None


def translate(error: OSError, what: str) -> StorageError:
    """The StorageError that says what `error` means and what to do about it."""
    text = str(error)
    if _UNREACHABLE.search(text) or isinstance(error, ConnectionRefusedError):
        return StorageError(
            where=what,
            got=f"the endpoint cannot be reached ({_last_words(text)})",
            allowed="a store that accepts connections from this machine",
            next_step="check object_store.endpoint_url or AWS_ENDPOINT_URL, and that the store is up",
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
        got = (
            "there is no such object, or no such bucket"
            if "://" in what
            else "there is no such file or folder"
        )
        next_step = "check the path; list the folder above it"
    elif isinstance(error, NotADirectoryError):
        got, next_step = "it is a file, not a folder", "give the folder that holds it"
    elif isinstance(error, PermissionError):
        got, next_step = "this user may not do that", "change the permissions or the path"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        got, next_step = "no space is left there", "free space or choose another place"
    elif _OTHER_REGION.search(text):
        got, next_step = "the bucket is in another region", "set object_store.region or AWS_DEFAULT_REGION"
    elif _CHECKSUM.search(text):
        got = "the store refuses checksum trailers (411)"
        next_step = "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required before the process starts"
    else:
        got, next_step = f"the store failed: {text}", "see the store's answer"
    return StorageError(where=what, got=got, allowed="a path that can be used", next_step=next_step)


def _denied(text: str, what: str) -> StorageError:
    code = re.search(r"AWS Error ([A-Z_]+)", text)
    reason = f"credentials were refused ({code.group(1) if code else _last_words(text)})"
    named = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN") if os.environ.get(name)]
    given = f"{', '.join(named)} set" if named else "no AWS_ACCESS_KEY_ID, AWS_PROFILE or AWS_ROLE_ARN set"
    return StorageError(
        where=what,
        got=f"{reason}; {given} in the environment of this process",
        allowed="credentials with access to this bucket, or object_store.anonymous for a public one",
        next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where it runs, and check the policy",
    )


def _last_words(text: str) -> str:
    return text.rsplit("; Details: ", 1)[-1].rsplit(" operation: ", 1)[-1].strip()[:200]
