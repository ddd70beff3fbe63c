"""A proxy in front of a store that writes down each request."""

from __future__ import annotations

import re

from .forwarding_proxy import ForwardingProxy

_REQUEST = re.compile(rb"(?:^|\r\n)((?:GET|HEAD|PUT|POST|DELETE) \S+) HTTP/1\.1\r\n")


class CountingProxy(ForwardingProxy):
    """`requests` has the first line of each request, such as `GET /bucket/key`."""

    def __init__(self, endpoint_url: str) -> None:
        self.requests: list[str] = []
        super().__init__(endpoint_url)

    def _may_pass(self, data: bytes) -> bool:
        # A small request comes in one piece: nothing is sent on a connection before its answer.
        self.requests += [line.decode() for line in _REQUEST.findall(data)]
        return True
