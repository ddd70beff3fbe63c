"""What finished embeddings hold: manifest, quarantine, pairs that are alike, neighbours, one page."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.index import save_index
from ..evaluate.embeddings import (
    FOLDER,
    MANIFEST_FILE,
    EmbeddingSet,
    read_embeddings,
    repeated_keys,
)
from ..report.embedding_page import Sheet, render_embedding_page
from ..spec.embed import EmbedSpec, NearDuplicatesSpec, NearestSpec
from ..spec.identity import resolved_yaml
from ..storage import Store, delete, publish_bytes
from ..storage.run_layout import INDEX_FOLDER, QUARANTINE_FILE, REPORT_FILE, RESULTS_FILE
from .embedding_shards import EmbeddingShards
from .embedding_sheets import neighbour_sheet, pair_sheet

PAIRS_FILE = "near_duplicates.parquet"


def finished(shards: EmbeddingShards, made: dict[str, Any] | None) -> dict[str, Any]:
    """Write what is to be said of the whole set, unless that was said; returns what results.json holds."""
    run, job = shards.run, shards.job
    counts = _manifest(shards)
    asked = {name: _plain(getattr(job, name)) for name in ("near_duplicates", "neighbours")}
    before, earlier = run.read_json(f"{FOLDER}/{MANIFEST_FILE}"), run.read_json(RESULTS_FILE)
    if earlier is not None and before == counts and earlier["asked"] == asked:
        return dict(earlier)
    # Written last and first to go: who finds them finds all that they stand for.
    for outdated in (RESULTS_FILE, f"{FOLDER}/{MANIFEST_FILE}"):
        delete(run.store, outdated)
    for number, index in enumerate(shards.indexes):
        publish_bytes(run.store.child(INDEX_FOLDER), f"source-{number}.index", save_index(index))
    bad = [
        {"key": key, "source": shards.indexes[source].source.uri, "reason": reason}
        for (source, _), entries in shards.unreadable.items()
        for key, reason in entries
    ]
    run.write_json_lines(QUARANTINE_FILE, bad)
    run.write_json(f"{FOLDER}/{MANIFEST_FILE}", counts)
    shards.drop_others()
    results, sheets = _results(shards, counts, made or (earlier or {}).get("made"))
    page = render_embedding_page(job.name, results, sheets, resolved_yaml(job))
    publish_bytes(run.store, REPORT_FILE, page.encode())
    run.write_json(RESULTS_FILE, {**results, "asked": asked})
    return {**results, "asked": asked}


def _manifest(shards: EmbeddingShards) -> dict[str, Any]:
    from ..methods.backbones import num_features

    job = shards.job
    sources = []
    for number, index in enumerate(shards.indexes):
        bad = sum(len(entries) for (source, _), entries in shards.unreadable.items() if source == number)
        about = {"uri": index.source.uri, "fingerprint": index.fingerprint}
        sources.append({**about, "images": index.num_records - bad, "unreadable": bad})
    return {
        "name": job.name,
        "weights": shards.source.digest,
        "images": sum(source["images"] for source in sources),
        "unreadable": sum(source["unreadable"] for source in sources),
        "features": num_features(shards.source.network),
        "dtype": job.dtype,
        "l2_normalised": job.l2_normalised,
        "sources": sources,
        "shards": [
            {"file": file, "source": shard[0], "images": shards.images_of(shard)}
            for shard, file in shards.files.items()
        ],
    }


def _results(
    shards: EmbeddingShards, counts: dict[str, Any], made: dict[str, Any] | None
) -> tuple[dict[str, Any], list[Sheet]]:
    job, run, log = shards.job, shards.run.store, shards.progress.log
    repeated, examples = repeated_keys(run, counts)
    warnings = []
    if counts["unreadable"]:
        warnings.append(f"{counts['unreadable']:,} images cannot be decoded: left out ({QUARANTINE_FILE})")
    if repeated:
        warnings.append(
            f"{repeated:,} keys stand more than once in the sources, such as {', '.join(examples)}: "
            "their rows differ in source, file and row"
        )
    results: dict[str, Any] = {
        "status": "finished",
        **{name: counts[name] for name in ("images", "unreadable", "features", "dtype", "l2_normalised")},
        "shards": len(counts["shards"]),
        "sources": counts["sources"],
        "weights": {"source": shards.source.source, "digest": shards.source.digest},
        "keys_repeated": repeated,
        "made": made,
        "warnings": warnings,
    }
    sheets: list[Sheet] = []
    delete(run, PAIRS_FILE)
    if job.near_duplicates is None and job.neighbours is None:
        return results, sheets
    limit = (job.near_duplicates or NearDuplicatesSpec()).images_max
    if counts["images"] > limit:
        words = f"{counts['images']:,} images are more than near_duplicates.images_max {limit:,}"
        warnings.append(f"not searched: {words}")
        return results, sheets
    embeddings = read_embeddings(run, counts)
    if job.near_duplicates is not None:
        results["near_duplicates"], sheet = _near_duplicates(run, job, job.near_duplicates, embeddings)
        sheets += [sheet] if sheet else []
        log("near duplicates: " + near_duplicates_in_words(results["near_duplicates"]))
        if not results["near_duplicates"]["complete"]:
            warnings.append("the search for near duplicates ended early, at pairs_max")
    if job.neighbours is not None and len(embeddings.vectors) > 1:
        sheets.append(_neighbours(run, job, job.neighbours, embeddings))
    return results, sheets


def _near_duplicates(
    run: Store, job: EmbedSpec, spec: NearDuplicatesSpec, embeddings: EmbeddingSet
) -> tuple[dict[str, Any], Sheet | None]:
    from ..evaluate.similar import near_duplicates

    pairs = near_duplicates(embeddings.vectors, spec.similarity_min, spec.pairs_max)
    publish_bytes(run, PAIRS_FILE, parquet_of_pairs(embeddings, pairs))
    groups, removable = pairs.groups(len(embeddings.vectors))
    found = {
        "similarity_min": spec.similarity_min,
        "pairs": len(pairs),
        "groups": groups,
        "removable": removable,
        "complete": pairs.complete,
    }
    sheet = pair_sheet(run, embeddings, pairs, spec.pairs_shown, job.object_store)
    return found, sheet


def _neighbours(run: Store, job: EmbedSpec, spec: NearestSpec, embeddings: EmbeddingSet) -> Sheet:
    from ..evaluate.similar import nearest_others

    count = len(embeddings.vectors)
    asked = np.unique(np.linspace(0, count - 1, min(spec.images_shown, count)).round().astype(np.int64))
    rows, similarity = nearest_others(embeddings.vectors, asked, spec.k)
    return neighbour_sheet(run, embeddings, asked, rows, similarity, job.object_store)


def near_duplicates_in_words(found: dict[str, Any]) -> str:
    """Pairs, groups and what could go, in one line."""
    return (
        f"{found['pairs']:,} pairs of similarity {found['similarity_min']:g} or more, in "
        f"{found['groups']:,} groups; {found['removable']:,} images repeat another one"
    )


def parquet_of_pairs(embeddings: EmbeddingSet, pairs: Any) -> bytes:
    """Keys and sources of all pairs with their similarity."""
    columns: dict[str, Any] = {}
    for name, rows in (("a", pairs.first), ("b", pairs.second)):
        some = embeddings.about.take(pa.array(rows))
        columns |= {f"{column}_{name}": some[column] for column in ("key", "source")}
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({**columns, "similarity": pa.array(pairs.similarity, pa.float32())}),
        buffer,
        compression="zstd",
    )
    return buffer.getvalue()


def _plain(section: Any) -> Any:
    return None if section is None else section.model_dump(mode="json")
