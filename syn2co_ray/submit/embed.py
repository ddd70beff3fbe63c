"""`syn2co run` for `kind: embed`: the shards that are missing, made by actors; then what they hold."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from ..data.index import build_index
from ..data.prepare import run_prepare
from ..spec.embed import EmbedSpec
from ..spec.identity import run_name
from ..storage.run_layout import PROVENANCE_FILE, REPORT_FILE
from .cluster import connected
from .driver_log import driver_log
from .progress import Progress
from .provenance import provenance
from .resources import check_actors
from .stop_signals import StopSignals
from .weights_folder import weights_and_folder


def run_embed(job: EmbedSpec, console: Console, *, debug: bool = False) -> dict[str, Any]:
    """Make the shards that are missing, search what is there; returns the content of results.json.

    Sources are listed anew by every command: the same one again makes what was added, and drops what went.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; whole shards stay, the same command makes the rest.
        Syn2coError: weights or data that cannot be used, or actors that cannot be scheduled.
    """
    with driver_log(run_name(job)) as log, Progress(console) as progress:
        # Before the cluster is connected, so that its logs are quiet as well.
        import ray.data  # noqa: F401

        progress.log(f"embedding {run_name(job)}")
        _check_extra(job)
        run_prepare(job.prepare, job.object_store, progress.log)
        from .embed_results import finished
        from .embedding_shards import EmbeddingShards

        source, run = weights_and_folder(job, progress.log)
        log.publish_into(run.store)
        indexes = tuple(build_index(images, job.object_store) for images in job.sources)
        if run.read_json(PROVENANCE_FILE) is None:
            weights = {"source": source.source, "digest": source.digest}
            run.write_json(PROVENANCE_FILE, {**provenance(job, indexes), "weights": weights})
        shards = EmbeddingShards(job, run, source, indexes, progress)
        missing = shards.find()
        images = sum(index.num_records for index in indexes)
        progress.log(f"{images:,} images in {len(shards.files):,} shards, {len(missing):,} to make")
        made = None
        if missing:
            # Before and after it a stop loses nothing, and need not be waited for.
            with StopSignals() as stop, connected(debug=debug) as cluster:
                stop.listen()
                check_actors(job.actors, cluster)
                made = shards.make(missing, stop.asked.is_set)
        results = finished(shards, made)
        for warning in results["warnings"]:
            progress.log(f"warning: {warning}")
        progress.log(f"embeddings: {shards.folder.uri}")
        progress.log(f"report: {run.store.child(REPORT_FILE).uri}")
        return results


def _check_extra(job: EmbedSpec) -> None:
    from ..evaluate.similar import check_search_is_there

    for name in ("near_duplicates", "neighbours"):
        if getattr(job, name) is not None:
            check_search_is_there(name)
