"""What is tried again, how often, with which delays; what is said about the rest."""

from __future__ import annotations

import errno

import pyarrow as pa
import pytest

from syn2co_ray.spec.errors import DataError, StorageError
from syn2co_ray.storage import with_retries

HEAD = "When reading information for key 'k' in bucket 'b': AWS Error"


def hub_error(name: str, text: str) -> Exception:
    """What the hub's client raises when the network fails: no OSError."""
    return type(name, (Exception,), {"__module__": "httpx"})(text)


TRANSIENT = [
    OSError(f"{HEAD} SLOW_DOWN during HeadObject operation: "),
    OSError(f"{HEAD} SERVICE_UNAVAILABLE during HeadObject operation: No response body."),
    OSError(f"{HEAD} UNKNOWN (HTTP status 503) during HeadObject operation: No response body."),
    OSError(f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 52, Server returned nothing"),
    OSError(f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 28, Timeout was reached"),
    OSError(f"{HEAD} INTERNAL_FAILURE during PutObject operation: "),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    TimeoutError(errno.ETIMEDOUT, "timed out"),
    OSError("Failed to read blob http://h/c/b Azure Error: [ServerBusy] 503 The server is busy."),
    OSError("Check failed. Azure Error: [] Fail to get a new connection for: http://h. Could not connect"),
    pa.ArrowException("Unknown error: Azure Error: [InternalError] 500 "),
    hub_error("ReadTimeout", "The read operation timed out"),
    OSError(errno.ESTALE, "Stale file handle"),
]

PERMANENT = [
    (
        OSError("... in bucket 'b': AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: "),
        "no bucket 'b'",
    ),
    (FileNotFoundError(errno.ENOENT, "Path does not exist 'b/k'"), "no such object, or no such bucket"),
    (
        OSError(f"{HEAD} ACCESS_DENIED during HeadObject operation: No response body."),
        "credentials were refused",
    ),
    (
        OSError(f"{HEAD} SIGNATURE_DOES_NOT_MATCH during ListObjectsV2 operation: "),
        "SIGNATURE_DOES_NOT_MATCH",
    ),
    (OSError(f"{HEAD} INVALID_ACCESS_KEY_ID during ListObjectsV2 operation: "), "INVALID_ACCESS_KEY_ID"),
    (
        OSError(
            f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 6, Could not resolve hostname"
        ),
        "cannot be reached",
    ),
    (
        OSError(f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect"),
        "cannot be reached",
    ),
    (OSError(f"{HEAD} UNKNOWN (HTTP status 301) during HeadObject operation: "), "another region"),
    (OSError("AWS Error UNKNOWN (HTTP status 411) during UploadPart operation: MissingContentLength"), "411"),
    (PermissionError(errno.EACCES, "Permission denied"), "may not do that"),
    (OSError("Azure Error: [AuthorizationFailure] 403 Server failed"), "refused (AuthorizationFailure)"),
    (OSError("Azure Error: [ContainerNotFound] 404 The container"), "no such bucket"),
    (pa.ArrowException("Unknown error: failed: N5Azure4Core11AuthenticationExceptionE: no login"), "refused"),
    (hub_error("ConnectError", "[Errno 111] Connection refused"), "cannot be reached"),
    (OSError(errno.ENOSPC, "No space left on device"), "no space"),
    (
        OSError(
            f"{HEAD} UNKNOWN (HTTP status 403) during PutObject operation: Unable to parse ExceptionName: "
            "QuotaExceeded Message: "
        ),
        "a quota is used up",
    ),
    (OSError(f"{HEAD} UNKNOWN (HTTP status 507) during PutObject operation: "), "no space"),
    (OSError("something nobody has seen before"), "something nobody has seen before"),
]


def failing(*errors: Exception):
    """An operation that raises each error in turn, then returns the number of calls."""
    calls: list[Exception] = []

    def operation() -> int:
        if len(calls) < len(errors):
            calls.append(errors[len(calls)])
            raise calls[-1]
        return len(calls) + 1

    return operation, calls


@pytest.mark.parametrize("error", TRANSIENT, ids=str)
def test_transient_error_is_tried_again(error: Exception) -> None:
    operation, _ = failing(error, error)
    assert with_retries(operation, what="read s3://b/k", sleep=lambda _: None) == 3


@pytest.mark.parametrize(("error", "words"), PERMANENT, ids=lambda value: str(value)[-40:])
def test_other_error_is_translated_at_once(error: Exception, words: str) -> None:
    operation, calls = failing(error, error)
    with pytest.raises(StorageError) as caught:
        with_retries(operation, what="read s3://b/k", sleep=lambda _: None)
    assert len(calls) == 1
    fault = caught.value.fault
    assert words in fault.got
    assert fault.where == "read s3://b/k"
    assert fault.allowed
    assert fault.next_step
    assert caught.value.__cause__ is error


class Clock:
    """Time that passes only while something sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.delays_s: list[float] = []

    def sleep(self, delay_s: float) -> None:
        self.delays_s.append(delay_s)
        self.now_s += delay_s

    def __call__(self) -> float:
        return self.now_s


def test_a_long_wait_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    for failures, lines in ((3, 0), (12, 1)):
        clock = Clock()
        operation, _ = failing(*[TRANSIENT[0]] * failures)
        assert with_retries(operation, what="read s3://b/k", sleep=clock.sleep, clock=clock) == failures + 1
        assert len(caplog.messages) == lines
    assert "read s3://b/k: " in caplog.text
    assert "trying again for up to 180 s" in caplog.text


def test_time_is_bounded_and_the_last_error_is_shown() -> None:
    operation, calls = failing(*[TRANSIENT[0]] * 999)
    clock = Clock()
    with pytest.raises(StorageError, match=r"still failing after \d+ attempts in \d+ s: .*SLOW_DOWN"):
        with_retries(operation, what="read s3://b/k", patience_s=60, sleep=clock.sleep, clock=clock)
    assert 50 < clock.now_s <= 60
    assert len(calls) == len(clock.delays_s) + 1


def test_delays_grow_within_their_bounds_and_vary() -> None:
    runs = []
    for _ in range(20):
        clock = Clock()
        operation, _ = failing(*[TRANSIENT[0]] * 8)
        with_retries(operation, what="w", base_delay_s=0.5, sleep=clock.sleep, clock=clock)
        bounds = [min(10.0, 0.5 * 2**k) for k in range(8)]
        assert all(0 <= delay <= bound for delay, bound in zip(clock.delays_s, bounds, strict=True))
        runs.append(tuple(clock.delays_s))
    assert len(set(runs)) == 20


GONE = OSError(
    f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Couldn't connect to server"
)
EXPIRED = OSError(f"{HEAD} EXPIRED_TOKEN during GetObject operation: ")


@pytest.mark.parametrize(
    ("error", "patience_s", "words"), [(GONE, 180, "cannot be reached"), (EXPIRED, 60, "EXPIRED_TOKEN")]
)
def test_a_store_that_served_before_is_waited_for(error: OSError, patience_s: float, words: str) -> None:
    what = f"read s3://bucket-{patience_s}/k"
    assert with_retries(lambda: 1, what=what) == 1
    clock = Clock()
    operation, _ = failing(*[error] * 5)
    assert with_retries(operation, what=what, sleep=clock.sleep, clock=clock) == 6
    operation, _ = failing(*[error] * 999)
    clock = Clock()
    with pytest.raises(StorageError, match=words):
        with_retries(operation, what=what, sleep=clock.sleep, clock=clock)
    assert patience_s - 10 <= clock.now_s <= patience_s


def test_refused_credentials_are_not_waited_for_where_they_were_never_accepted() -> None:
    assert with_retries(lambda: 1, what="read s3://half/k") == 1
    operation, calls = failing(EXPIRED)
    with pytest.raises(StorageError, match="EXPIRED_TOKEN"):
        with_retries(operation, what="write s3://half/k")
    assert len(calls) == 1


def test_errors_that_are_not_of_the_store_pass_through() -> None:
    def refuse() -> None:
        raise DataError("file", "bad contents")

    with pytest.raises(DataError, match="bad contents"):
        with_retries(refuse, what="w")
    with pytest.raises(ZeroDivisionError):
        with_retries(lambda: 1 // 0, what="w")
