"""What is counted while serving, and the page with these figures and Ray Serve's own.

Ray exports a process's figures on its node's metrics port within 10 s (RAY_metrics_report_interval_ms),
under `ray_` and the name below, with the labels application, deployment and replica. The page joins what
all nodes export of serving, and of nothing else.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterable

import ray
from ray.serve import metrics

PREFIXES = ("ray_serve_", "ray_syn2co_serve_")
TIMEOUT_S = 5.0
SECONDS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
IMAGES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]

_NAME = re.compile(r"(?:# (?:HELP|TYPE) )?([a-zA-Z_:][a-zA-Z0-9_:]*)")
_SUFFIX = re.compile(r"_(?:bucket|sum|count)$")


class Figures:
    """The metrics of one replica."""

    def __init__(self) -> None:
        """Make them; called inside a replica."""
        self.requests = metrics.Counter(
            "syn2co_serve_requests_total", "Requests answered with what was asked for", ("page",)
        )
        self.rejected = metrics.Counter(
            "syn2co_serve_rejected_total", "Requests refused, by reason", ("reason",)
        )
        self.batch_images = metrics.Histogram(
            "syn2co_serve_batch_images", "Images of a forward pass", boundaries=IMAGES
        )
        self.forward_seconds = metrics.Histogram(
            "syn2co_serve_forward_seconds", "Time of a forward pass", boundaries=SECONDS
        )
        self.latency_seconds = metrics.Histogram(
            "syn2co_serve_latency_seconds",
            "Time in the replica, from the request's head to its answer",
            boundaries=SECONDS,
            tag_keys=("page",),
        )

    def answered(self, page: str, seconds: float) -> None:
        self.requests.inc(tags={"page": page})
        self.latency_seconds.observe(seconds, tags={"page": page})

    def refused(self, reason: str) -> None:
        self.rejected.inc(tags={"reason": reason})

    def forwarded(self, images: int, seconds: float) -> None:
        self.batch_images.observe(images)
        self.forward_seconds.observe(seconds)


def metrics_page() -> str:
    """Figures of serving from all nodes, in Prometheus' text format; a comment names silent ones. Blocks."""
    texts, silent = [], []
    for node in ray.nodes():
        if node["Alive"] and node["MetricsExportPort"]:
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            try:
                with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                    texts.append(answer.read().decode())
            except OSError as error:
                silent.append(f"# {url} does not answer: {error}\n")
    return joined(texts) + "".join(silent)


def joined(texts: Iterable[str]) -> str:
    """Several exports as one: a family's description once, its samples of all nodes below it."""
    described: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for line in (line for text in texts for line in text.splitlines()):
        found = _NAME.match(line)
        if found is None or not found[1].startswith(PREFIXES):
            continue
        if line.startswith("#"):
            if line not in described.setdefault(found[1], []):
                described[found[1]].append(line)
            continue
        family = found[1] if found[1] in described else _SUFFIX.sub("", found[1])
        samples.setdefault(family, []).append(line)
    lines = [line for family in samples for line in (*described.get(family, ()), *samples[family])]
    return "".join(f"{line}\n" for line in lines)
