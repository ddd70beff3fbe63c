from __future__ import annotations

import os
import urllib.request

import pytest

from syn2co_ray.ray_environment import keep_from_proxies


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY", None])
def test_a_proxy_for_other_machines_does_not_see_what_is_for_this_one(monkeypatch, variable):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    if variable:
        monkeypatch.setenv(variable, "internal.example")
    keep_from_proxies()
    for host in ("127.0.0.1:8265", "localhost:8265", *(["internal.example"] if variable else [])):
        assert urllib.request.proxy_bypass(host), host
    assert not urllib.request.proxy_bypass("head.example:8265")


def test_who_spares_all_machines_spares_them_still(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "*")
    keep_from_proxies()
    assert urllib.request.proxy_bypass("head.example:8265")


def test_where_no_proxy_is_set_nothing_is(monkeypatch):
    """A variable would switch the settings of the system off, where it has such (macOS)."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    keep_from_proxies()
    assert "no_proxy" not in os.environ
