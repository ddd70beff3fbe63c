"""From a spec to a listening server on a connected cluster, and back: requests in flight are answered."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from ..spec.errors import ClusterError, Syn2coError
from ..spec.serving import ServeSpec
from .application import Nearest, Served, application

APPLICATION = "syn2co"
CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")
KEEP_ALIVE_S = 30
SILENCE_S = 10.0
"""When somebody who waits for the replicas would begin to wonder."""

_OURS = re.compile(r"syn2co_ray\.spec\.errors\.\w+: (.+)")


@contextlib.contextmanager
def serving(
    served: Served, told: Callable[[str], None], *, cluster_stays: bool = True, debug: bool = False
) -> Iterator[dict[str, Any]]:
    """Serve for the time of the block; what is known of the neighbours ({} without) is its value.

    `told` gets a line, from another thread, when replicas are not there after SILENCE_S.

    At the end the address takes no new requests (404), those in flight are answered within `drain_s`, and
    then Ray Serve is ended: in order where the cluster stays, else with the cluster.

    Raises:
        ClusterError: Ray Serve runs on this cluster already, or does not start.
        Syn2coError: a replica cannot be started.
    """
    spec = served.spec
    with contextlib.suppress(ValueError):
        ray.get_actor(CONTROLLER[0], namespace=CONTROLLER[1])
        got = "Ray Serve runs there already, and has one address for all it serves"
        raise ClusterError("cluster", got, "a cluster without it", "`serve shutdown` there, or another one")
    # A line for each request in a file would cost more than it tells: the metrics count them.
    quiet = LoggingConfig(log_level="INFO" if debug else "WARNING", enable_access_log=False)
    http = HTTPOptions(
        host=spec.host,
        port=spec.port,
        request_timeout_s=spec.request_timeout_s,
        keep_alive_timeout_s=KEEP_ALIVE_S,
    )
    if not debug:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        try:
            serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
        except (RuntimeError, TimeoutError, RayError) as error:
            words = [line.strip() for line in str(error).splitlines() if line.strip()]
            got = f"Ray Serve does not start ({words[-1] if words else type(error).__name__})"
            raise ClusterError(f"{spec.host}:{spec.port}", got, "", "--debug shows more") from error
        try:
            with _waiting(spec, told):
                serve.run(application(served), name=APPLICATION, route_prefix="/", logging_config=quiet)
        except RuntimeError as error:
            raise _not_started(error) from error
        about = {}
        if spec.neighbours is not None:
            about = serve.get_deployment_handle(Nearest.__name__, APPLICATION).about.remote().result()
        yield about
        # First the application: its replicas answer what they hold while the proxy still passes it on.
        serve.delete(APPLICATION)
    finally:
        if cluster_stays:
            serve.shutdown()


@contextlib.contextmanager
def _waiting(spec: ServeSpec, told: Callable[[str], None]) -> Iterator[None]:
    """Say what is waited for when the block takes long: Ray's own words about it are not shown."""

    def say() -> None:
        pool, free = spec.replicas, ray.available_resources()
        there = f"{free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs"
        search = " and the search for 1 CPU" if spec.neighbours is not None else ""
        told(
            f"waiting for room, or for the network to load: {pool.min} replicas ask for {pool.cpus_each:g} "
            f"CPUs and {pool.gpus_each:g} GPUs each{search}; free on the cluster: {there}"
        )

    timer = threading.Timer(SILENCE_S, say)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _not_started(error: RuntimeError) -> Syn2coError:
    """What a replica said, in its own words where they are ours."""
    ours = _OURS.findall(str(error))
    if ours:
        return Syn2coError("serve", ours[-1].strip())
    lines = [line for line in str(error).splitlines() if line.strip()]
    return Syn2coError(
        "serve", lines[-1].strip() if lines else "no replica started", "", "--debug shows more"
    )
