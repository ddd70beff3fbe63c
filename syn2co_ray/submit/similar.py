"""`syn2co neighbours` and `syn2co duplicates`: questions about the embeddings that a job has written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..data.decode import UnreadableImage, decode_rgb
from ..evaluate.embeddings import FOLDER, EmbeddingSet, read_embeddings, read_manifest
from ..evaluate.similar import check_search_is_there, near_duplicates, nearest, nearest_others
from ..report.embedding_page import Sheet, Strip, Tile, render_sheet_page
from ..report.output_file import check_into
from ..spec.embed import EmbedSpec
from ..spec.errors import CheckpointError, DataError, Fault, SpecError
from ..spec.load import load_text
from ..spec.source import ObjectStoreSpec
from ..storage import Store, open_store, read_bytes
from ..storage.run_layout import SPEC_FILE
from .embed_results import near_duplicates_in_words
from .embedding_sheets import Pictures, data_uri, neighbour_tiles, pair_sheet

PAIRS_PRINTED = 10


def neighbour_lines(
    uri: str, key: str, image: str, k: int, into: str, options: ObjectStoreSpec
) -> Iterator[str]:
    """The images nearest to one of the set (`key`) or to an image file, and a page of them.

    Raises:
        SpecError: not one of key and image; no folder for the page; faiss is missing.
        DataError: no such key, no readable image, no finished embeddings.
        CheckpointError: the weights are no longer those of the embeddings.
    """
    if bool(key) == bool(image):
        got = "both" if key else "neither"
        raise SpecError([Fault("--key, --image", got, "one of them", "name a key, or an image file")])
    check_into(into)
    check_search_is_there("neighbours")
    run, embeddings = _opened(uri, options)
    pictures = Pictures(run, options)
    if key:
        number = embeddings.number_of(key)
        rows, similarity = nearest_others(embeddings.vectors, np.array([number]), k)
        asked = Tile(pictures.of(embeddings.row(number)), key, "asked about")
    else:
        pixels = _decoded(image, _job(run).image_pixels_max)
        rows, similarity = nearest(embeddings.vectors, _embedded(run, pixels, options), k)
        asked = Tile(data_uri(pixels), Path(image).name, "asked about")
    for row, alike in zip(rows[0], similarity[0], strict=True):
        about = embeddings.row(int(row))
        label = f"  label {about['label']}" if about["label"] is not None else ""
        yield f"{alike:.4f}  {about['key']}{label}  {about['source']}"
    strip = Strip("", (asked, *neighbour_tiles(pictures, embeddings, rows[0], similarity[0])))
    caption = f"Of {len(embeddings.vectors):,} images, cosine similarity."
    yield _page(into, f"Neighbours of {asked.name}", run, Sheet("Nearest", caption, (strip,)))


def duplicate_lines(
    uri: str, similarity_min: float, pairs_max: int, shown: int, into: str, options: ObjectStoreSpec
) -> Iterator[str]:
    """Pairs that are at least so much alike, the most alike first, and a page of some.

    Raises:
        SpecError: a similarity that none can have; no folder for the page; faiss is missing.
        DataError: no finished embeddings there.
    """
    if not 0 < similarity_min <= 1:
        raise SpecError([Fault("--similarity-min", f"{similarity_min:g}", "0 to 1", "such as 0.98")])
    check_into(into)
    check_search_is_there("near_duplicates")
    run, embeddings = _opened(uri, options)
    pairs = near_duplicates(embeddings.vectors, similarity_min, pairs_max)
    groups, removable = pairs.groups(len(embeddings.vectors))
    found: dict[str, Any] = {"similarity_min": similarity_min, "pairs": len(pairs)}
    yield near_duplicates_in_words({**found, "groups": groups, "removable": removable})
    if not pairs.complete:
        yield f"the search ended early, at {pairs_max:,} pairs (--pairs-max)"
    for place in range(min(PAIRS_PRINTED, len(pairs))):
        keys = (embeddings.row(int(side[place]))["key"] for side in (pairs.first, pairs.second))
        yield f"{pairs.similarity[place]:.4f}  {'  '.join(keys)}"
    sheet = pair_sheet(run, embeddings, pairs, shown, options)
    if sheet is not None:
        yield _page(into, f"Near duplicates, {similarity_min:g} or more alike", run, sheet)


def _opened(uri: str, options: ObjectStoreSpec) -> tuple[Store, EmbeddingSet]:
    run = open_store(uri.rstrip("/").removesuffix(f"/{FOLDER}"), options)
    return run, read_embeddings(run, read_manifest(run))


def _job(run: Store) -> EmbedSpec:
    job = load_text(read_bytes(run, SPEC_FILE).decode(), file=run.child(SPEC_FILE).uri)
    if not isinstance(job, EmbedSpec):
        raise DataError(run.uri, f"a run of kind {job.kind}", "one of kind embed", "give its folder")
    return job


def _decoded(file: str, pixels_max: int) -> np.ndarray:
    try:
        return decode_rgb(Path(file).read_bytes(), pixels_max=pixels_max)
    except (OSError, UnreadableImage) as error:
        raise DataError("--image", f"{file}: {error}", "a JPEG, PNG, WebP, GIF or BMP", "check it") from None


def _embedded(run: Store, pixels: np.ndarray, options: ObjectStoreSpec) -> np.ndarray:
    """The embedding of one decoded image, (1, F) of length 1, by the network of the set."""
    import torch

    from ..augment.eval_view import eval_view
    from ..evaluate.networks import network_of
    from ..evaluate.weights import load_backbone

    loaded = load_backbone(_job(run).weights, options)
    if loaded.digest != read_manifest(run)["weights"]:
        raise CheckpointError(
            run.uri,
            f"the weights are now {loaded.source}, with another digest",
            "those that the embeddings were made with",
            "ask with --key, or embed again under another name",
        )
    view = torch.from_numpy(eval_view(pixels, loaded.image_size))[None]
    found = network_of("embedding", loaded, torch.device("cpu")).embed(view).float().numpy()
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def _page(into: str, title: str, run: Store, sheet: Sheet) -> str:
    Path(into).write_text(render_sheet_page(title, run.uri, [sheet]), encoding="utf-8")
    return f"sheet: {into}"
