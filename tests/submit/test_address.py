"""Servers are for this machine alone, unless a token is shown."""

from __future__ import annotations

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.submit.address import check_address, listening_socket, names_of, url_of


def test_a_public_address_needs_a_token_that_cannot_be_guessed() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_address(host, None, "SYN2CO_X_TOKEN", 8501)
    check_address("0.0.0.0", "0123456789abcdef", "SYN2CO_X_TOKEN", 8501)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(SpecError, match="set SYN2CO_X_TOKEN.*8501:127.0.0.1:8501"):
            check_address(host, None, "SYN2CO_X_TOKEN", 8501)
    with pytest.raises(SpecError, match="at least 16 characters"):
        check_address("0.0.0.0", "short", "SYN2CO_X_TOKEN", 8501)


def test_the_address_itself_is_a_name_for_a_server_on_it() -> None:
    assert names_of("127.0.0.2") == {"127.0.0.2", "127.0.0.1", "::1", "localhost"}
    assert names_of("0.0.0.0") is None


def test_a_taken_port_is_named() -> None:
    with listening_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(SpecError, match=f"--port: 127.0.0.1:{port}"):
            listening_socket("127.0.0.1", port)
    assert url_of("::1", 80) == "http://[::1]:80/"
