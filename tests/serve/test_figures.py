"""The exports of several nodes become one page about serving alone."""

from __future__ import annotations

import pytest

pytest.importorskip("ray.serve", reason="needs the extra `serve`")

from syn2co_ray.serve.figures import joined

FIRST = """\
# HELP ray_syn2co_serve_requests_total Requests
# TYPE ray_syn2co_serve_requests_total counter
ray_syn2co_serve_requests_total{replica="a"} 3.0
# HELP ray_node_cpu CPUs
# TYPE ray_node_cpu gauge
ray_node_cpu 2.0
# HELP ray_serve_latency_ms Latency
# TYPE ray_serve_latency_ms histogram
ray_serve_latency_ms_bucket{le="1.0"} 1.0
ray_serve_latency_ms_count 1.0
"""


def test_a_family_is_described_once_and_other_figures_stay_away() -> None:
    assert joined([FIRST, FIRST.replace('"a"', '"b"')]).splitlines() == [
        "# HELP ray_syn2co_serve_requests_total Requests",
        "# TYPE ray_syn2co_serve_requests_total counter",
        'ray_syn2co_serve_requests_total{replica="a"} 3.0',
        'ray_syn2co_serve_requests_total{replica="b"} 3.0',
        "# HELP ray_serve_latency_ms Latency",
        "# TYPE ray_serve_latency_ms histogram",
        *['ray_serve_latency_ms_bucket{le="1.0"} 1.0', "ray_serve_latency_ms_count 1.0"] * 2,
    ]
