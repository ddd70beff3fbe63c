"""`syn2co serve`: weights behind an HTTP address, here or on the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from typing import Any

from rich.console import Console

from ..spec.errors import ResourceError, SpecError, Syn2coError, error_from_json, error_to_json
from ..spec.serving import ServeSpec
from ..storage import open_store
from ..train.room import UNITS, gpus_fit
from .address import check_address, listening_socket, names_of, url_of
from .cluster import Cluster, connected
from .progress import LiveText
from .resources import gpus_in_words
from .stop_signals import StopSignals

TOKEN_VARIABLE = "SYN2CO_SERVE_TOKEN"
LOOK_EVERY_S = 5.0
HEAD = "node:__internal_head__"
"""The resource by which Ray names a cluster's head."""


def run_serve(spec: ServeSpec, console: Console, *, debug: bool = False) -> None:
    """Serve until Ctrl-C or SIGTERM; requests in flight are answered before the end.

    Raises:
        SpecError: a public address without a token, a taken port, a backbone that cannot be built.
        ResourceError: the cluster has no room for the replicas.
        ClusterError: Ray Serve runs on that cluster already, or does not start.
        Syn2coError: weights or embeddings that cannot be used, or the extra `serve` is missing.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    check_address(spec.host, token, TOKEN_VARIABLE, spec.port)
    check_installed()
    told = LiveText(console)
    told.log(f"loading {spec.weights.run or spec.weights.file}")
    served = prepared(spec, token)
    told.log(f"weights: {served.source} (digest {served.digest[:12]}), {served.features} features")
    if not os.environ.get("RAY_ADDRESS"):
        listening_socket(spec.host, spec.port).close()
    with connected(debug=debug) as cluster:
        from ..serve.lifetime import serving

        decided = with_room(spec, cluster)
        if not cluster.is_local:
            check_head_listens(spec.host, spec.port)
        at_work = serving(served.on(decided), told.log, cluster_stays=not cluster.is_local, debug=debug)
        with at_work as neighbours, StopSignals() as stop:
            for line in _listening(decided, cluster, neighbours, token):
                told.log(line)
            _watch(stop, told)
            told.log(f"stopping: requests in flight are answered (at most {spec.drain_s:g} s)")
    told.log("stopped")


def check_installed() -> None:
    """Raises Syn2coError, naming the extra, where what serving needs is not installed."""
    try:
        from ray import serve  # noqa: F401
    except ImportError as error:
        raise _not_installed(str(error).partition(".")[0]) from error
    if importlib.util.find_spec("python_multipart") is None:
        raise _not_installed("No module named 'python_multipart'")


def check_head_listens(host: str, port: int) -> None:
    """Try the address where it will be listened on: on the head of the connected cluster.

    Raises:
        SpecError: the port is taken there, or the address is not one of that machine.
    """
    import ray

    on_head = ray.remote(num_cpus=0, resources={HEAD: 0.001})(_listening_fault)
    if found := ray.get(on_head.remote(host, port)):
        raise error_from_json(found)


def _listening_fault(host: str, port: int) -> str:
    try:
        listening_socket(host, port).close()
    except SpecError as error:
        fault = error.fault
        return error_to_json(SpecError([replace(fault, got=f"on the cluster's head, {fault.got}")], "serve"))
    return ""


class Prepared:
    """Weights that were loaded once here, so that what is wrong with them is said before anything starts."""

    def __init__(self, network: Any, features: int, token: str | None) -> None:
        self.digest, self.source, self.features = network.digest, network.name, features
        self._network, self._token = network, token

    def on(self, spec: ServeSpec) -> Any:
        """What replicas are told; the tensors wait for them in the connected cluster."""
        import ray

        from ..serve.application import Served
        from ..serve.requests import token_digest

        token = token_digest(self._token) if self._token else None
        return Served(spec, [ray.put(self._network)], token, names_of(spec.host))


def prepared(spec: ServeSpec, token: str | None) -> Prepared:
    """Load the weights, embed one image, look at the embeddings.

    Raises:
        Syn2coError: what cannot be used.
    """
    import torch

    from ..evaluate.embedding_rows import check_embeddings
    from ..evaluate.networks import packed
    from ..evaluate.weights import load_backbone
    from ..serve.embedder import ImageEmbedder

    loaded = load_backbone(spec.weights, spec.object_store)
    network = packed(loaded.source, loaded)
    features = ImageEmbedder(network, spec.image_pixels_max, torch.device("cpu")).check()
    if spec.neighbours is not None:
        check_embeddings(open_store(spec.neighbours, spec.object_store), features, network.digest)
    return Prepared(network, features, token)


def with_room(spec: ServeSpec, cluster: Cluster) -> ServeSpec:
    """The spec with its GPUs decided.

    Raises:
        ResourceError: the fewest replicas, and the search, need more than the cluster has.
    """
    replicas, step = spec.replicas, "lower --replicas-min, --cpus-each or --gpus-each, or add nodes"
    gpus_each = replicas.gpus_each
    if gpus_each is None:
        gpus_each = 1.0 if gpus_fit(cluster.node_gpus, [1.0] * replicas.min) else 0.0
    cpus = replicas.min * replicas.cpus_each + (spec.neighbours is not None)
    if cpus > cluster.cpus + 1 / UNITS:
        search = " and the search" if spec.neighbours is not None else ""
        got = f"{cpus:g} CPUs for {replicas.min} replicas{search}"
        raise ResourceError("cluster", got, f"{cluster.cpus:g}", step)
    if not gpus_fit(cluster.node_gpus, [gpus_each] * replicas.min):
        got = f"{replicas.min} replicas of {gpus_each:g} GPUs"
        raise ResourceError("cluster", got, gpus_in_words(cluster.node_gpus), step)
    decided = replicas.model_copy(update={"gpus_each": gpus_each})
    return spec.model_copy(update={"replicas": decided})


def _listening(spec: ServeSpec, cluster: Cluster, neighbours: dict[str, Any], token: str | None) -> list[str]:
    pool, where = spec.replicas, "" if cluster.is_local else " on the cluster's head"
    if neighbours:
        pages = "POST embed, POST neighbours"
        first = [f"neighbours: {neighbours['rows']:,} rows, searched exactly by {neighbours['search']}"]
    else:
        pages, first = "POST embed", []
    count = f"{pool.min}" if pool.min == pool.max else f"{pool.min} to {pool.max}"
    needs = f", with the token of {TOKEN_VARIABLE}" if token else ""
    return [
        *first,
        f"replicas: {count}, {pool.cpus_each:g} CPUs and {pool.gpus_each:g} GPUs each; batches of up to "
        f"{spec.images_per_batch_max}",
        f"listening{where}: {url_of(spec.host, spec.port)}  ({pages}, GET health, GET metrics{needs}; "
        "Ctrl-C ends it)",
    ]


def _watch(stop: StopSignals, told: LiveText) -> None:
    """Wait for the wish to stop; say when replicas fail and when they are well again."""
    from ray import serve

    from ..serve.lifetime import APPLICATION

    before = "RUNNING"
    while not stop.asked.wait(LOOK_EVERY_S):
        found = serve.status().applications[APPLICATION]
        if found.status != before:
            before = str(found.status.value)
            told.log(f"replicas: {before.lower()} {found.message}".rstrip())


def _not_installed(words: str) -> Syn2coError:
    return Syn2coError("syn2co serve", words, "", "pip install 'syn2co_ray[serve]'")
