"""Who can reach a server that is started here: this machine alone, or others that show a token."""

from __future__ import annotations

import ipaddress
import socket

from ..spec.errors import Fault, SpecError

TOKEN_LENGTH_MIN = 16
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def check_address(host: str, token: str | None, variable: str, port: int) -> None:
    """Refuse what anybody could use.

    Args:
        host: address that is listened on.
        token: what has to be shown; nothing when None.
        variable: environment variable that it comes from.
        port: for the words about ssh.

    Raises:
        SpecError: a public address without a token, or a token that can be guessed.
    """
    if token is not None and len(token) < TOKEN_LENGTH_MIN:
        allowed = f"at least {TOKEN_LENGTH_MIN} characters"
        raise SpecError([Fault(variable, f"{len(token)} characters", allowed, "openssl rand -hex 16")])
    if not is_loopback(host) and token is None:
        raise SpecError(
            [
                Fault(
                    "--host",
                    f"{host} can be reached from other machines, and no token is set",
                    "127.0.0.1, or a token",
                    f"set {variable}, or reach this machine by `ssh -L {port}:127.0.0.1:{port}`; put a proxy "
                    "that encrypts before a public address",
                )
            ]
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_of(host: str) -> frozenset[str] | None:
    """Names that requests may use for a server on this address; any (None) where others can reach it."""
    return LOOPBACK_NAMES | {host} if is_loopback(host) else None


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; on a free port for port 0.

    Raises:
        SpecError: the port is taken, or the address is not one of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise SpecError(
            [Fault("--port", f"{host}:{port}: {error}", "a free port", "give another")]
        ) from error


def url_of(host: str, port: int) -> str:
    """The address as a browser takes it."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
