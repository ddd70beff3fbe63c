"""What a request may be, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

pytest.importorskip("python_multipart", reason="needs the extra `serve`")

from starlette.requests import Request

from syn2co_ray.serve.requests import (
    Refused,
    check_name,
    check_token,
    count_of,
    has_token,
    image_of,
    token_digest,
)

FORM = (
    b'--B\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\nBYTES\r\n--B--\r\n"
)
IS_FORM = {"content-type": "multipart/form-data; boundary=B"}


class Asked(Request):
    """A request whose body comes in pieces; `read` counts those that were taken."""

    def __init__(self, headers: dict[str, str], body: Iterable[bytes] = (b"",), query: str = "") -> None:
        self.read, pieces = 0, list(body)

        async def receive() -> dict[str, Any]:
            self.read += 1
            return {
                "type": "http.request",
                "body": pieces[self.read - 1],
                "more_body": self.read < len(pieces),
            }

        super().__init__(
            {
                "type": "http",
                "method": "POST",
                "path": "/embed",
                "query_string": query.encode(),
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            },
            receive,
        )


def image(headers: dict[str, str], body: Iterable[bytes], bytes_max: int = 1000) -> bytes:
    return asyncio.run(image_of(Asked(headers, body), bytes_max))


def refused(headers: dict[str, str], body: Iterable[bytes] = (b"",), bytes_max: int = 1000) -> Refused:
    with pytest.raises(Refused) as error:
        image(headers, body, bytes_max)
    return error.value


@pytest.mark.parametrize("media_type", ["image/jpeg", "Image/PNG; q=1", "application/octet-stream"])
def test_a_body_is_the_image(media_type: str) -> None:
    assert image({"content-type": media_type}, [b"by", b"", b"tes"]) == b"bytes"


def test_a_form_brings_one_file() -> None:
    assert image(IS_FORM, [FORM[:50], FORM[50:]]) == b"BYTES"
    for body in (
        FORM.replace(b'; filename="a.png"', b""),
        b"no form",
        FORM[:-8] + b"\r\n" + FORM,
        b"--B--\r\n",
    ):
        found = refused(IS_FORM, [body], 10_000)
        assert (found.status, found.reason) == (400, "malformed")
    assert refused({"content-type": "multipart/form-data"}, [FORM]).status == 400


@pytest.mark.parametrize(
    "headers",
    [{}, {"content-type": "text/plain"}, {"content-type": "image/png", "content-encoding": "gzip"}],
)
def test_other_bodies_are_415(headers: dict[str, str]) -> None:
    assert refused(headers).status == 415


def test_a_large_body_is_refused_before_it_is_read() -> None:
    told = Asked({"content-type": "image/png", "content-length": "1001"}, [b"x" * 1001])
    with pytest.raises(Refused) as error:
        asyncio.run(image_of(told, 1000))
    assert (error.value.status, told.read) == (413, 0)
    untold = Asked({"content-type": "image/png"}, [b"x" * 600] * 5)
    with pytest.raises(Refused) as error:
        asyncio.run(image_of(untold, 1000))
    assert (error.value.status, untold.read) == (413, 2)
    assert image({"content-type": "image/png"}, [b"x" * 1000]) == b"x" * 1000


def test_the_token_is_compared_as_a_whole() -> None:
    digest = token_digest("0123456789abcdef")
    for header in ("", "Bearer", "Bearer 0123456789abcde", "Basic 0123456789abcdef", "0123456789abcdef"):
        with pytest.raises(Refused) as error:
            check_token(Asked({"authorization": header}), digest)
        assert (error.value.status, error.value.reason) == (401, "no_token")
    check_token(Asked({"authorization": "bearer 0123456789abcdef"}), digest)
    assert has_token(Asked({}), None)


def test_another_name_of_this_server_is_refused() -> None:
    names = frozenset({"127.0.0.1", "localhost", "::1"})
    for host in ("127.0.0.1:8000", "LOCALHOST", "[::1]:8000"):
        check_name(Asked({"host": host}), names)
    for host in ("attacker.example:8000", "127.0.0.1.attacker.example"):
        with pytest.raises(Refused) as error:
            check_name(Asked({"host": host}), names)
        assert error.value.status == 421


def test_a_count_is_a_whole_number_in_its_bounds() -> None:
    assert count_of(Asked({}), "k", 10, 100) == 10
    assert count_of(Asked({}, query="k=100"), "k", 10, 100) == 100
    for given in ("0", "101", "-1", "1.5", "x", "", "9" * 5000, "\u0663"):
        with pytest.raises(Refused) as error:
            count_of(Asked({}, query=f"k={given}"), "k", 10, 100)
        assert error.value.status == 400
