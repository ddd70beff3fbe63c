"""Contact sheets of embedded images: their pictures, read again from where they stand."""

from __future__ import annotations

import base64
import io
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..data.decode import UnreadableImage, decode_rgb
from ..data.index import SourceIndex, load_index, read_rows
from ..data.thumbnail import fitted
from ..evaluate.embeddings import EmbeddingSet
from ..report.embedding_page import Sheet, Strip, Tile
from ..spec.errors import Syn2coError
from ..spec.source import ObjectStoreSpec
from ..storage import Store, list_files, read_bytes
from ..storage.run_layout import INDEX_FOLDER

TILE_PIXELS = 96
JPEG_QUALITY = 90
PIXELS_MAX = 100_000_000


class Pictures:
    """Small pictures of the images of a job, as data URIs; those that are gone have none."""

    def __init__(self, run: Store, options: ObjectStoreSpec) -> None:
        folder = run.child(INDEX_FOLDER)
        files = [info.path for info in list_files(folder, recursive=False) if info.path.startswith("source-")]
        indexes = [load_index(read_bytes(folder, file)) for file in files]
        self.indexes = {index.source.uri: index for index in indexes}
        self.options = options

    def of(self, row: dict[str, Any]) -> str | None:
        """The picture of one row of an embedding set; None when it cannot be read any more."""
        index = self.indexes[row["source"]]
        try:
            fragment, place = _where(index, row["file"], row["row"])
            table = read_rows(index, fragment, np.array([place]), self.options, ("key", "image"))
            if table["key"][0].as_py() != row["key"]:
                return None
            return data_uri(decode_rgb(table["image"][0].as_py(), pixels_max=PIXELS_MAX))
        except (Syn2coError, UnreadableImage):
            return None


def data_uri(picture: np.ndarray) -> str:
    """(H, W, 3) uint8, fitted into a tile."""
    buffer = io.BytesIO()
    fitted(picture, TILE_PIXELS).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def pair_sheet(
    run: Store, embeddings: EmbeddingSet, pairs: Any, shown: int, options: ObjectStoreSpec
) -> Sheet | None:
    """Some pairs, spread over their similarities; None when there is none to show."""
    if not len(pairs) or not shown:
        return None
    pictures = Pictures(run, options)
    places = np.unique(np.linspace(0, len(pairs) - 1, min(shown, len(pairs))).round().astype(np.int64))
    strips = []
    for place in places:
        both = (int(pairs.first[place]), int(pairs.second[place]))
        tiles = tuple(_tile(pictures, embeddings.row(row)) for row in both)
        strips.append(Strip(f"{pairs.similarity[place]:.4f}", tiles))
    caption = f"{len(strips)} of {len(pairs):,} pairs, from the most to the least alike; cosine similarity."
    return Sheet("Near duplicates", caption, tuple(strips))


def neighbour_sheet(
    run: Store,
    embeddings: EmbeddingSet,
    asked: np.ndarray,
    rows: np.ndarray,
    similarity: np.ndarray,
    options: ObjectStoreSpec,
) -> Sheet:
    """Each image asked about, and the ones nearest to it."""
    pictures = Pictures(run, options)
    strips = [
        Strip(
            "",
            (
                _tile(pictures, embeddings.row(int(number))),
                *neighbour_tiles(pictures, embeddings, near, alike),
            ),
        )
        for number, near, alike in zip(asked, rows, similarity, strict=True)
    ]
    return Sheet(
        "Nearest neighbours", "First the image asked about, then those nearest to it.", tuple(strips)
    )


def neighbour_tiles(
    pictures: Pictures, embeddings: EmbeddingSet, rows: Iterable[int], similarity: Iterable[float]
) -> list[Tile]:
    """A picture of each row, with its similarity."""
    return [
        _tile(pictures, embeddings.row(int(row)), f"{alike:.3f}")
        for row, alike in zip(rows, similarity, strict=True)
    ]


def _tile(pictures: Pictures, row: dict[str, Any], note: str = "") -> Tile:
    words = (note, row["label"] or "")
    return Tile(pictures.of(row), row["key"], ", ".join(word for word in words if word))


def _where(index: SourceIndex, file: str, row: int) -> tuple[int, int]:
    """Fragment and row in it of a row of a file."""
    number = bisect_left(index.files, file)
    fragments = np.flatnonzero(index.fragment_file == number)
    first_rows = index.fragment_first_row[fragments]
    last = int(np.flatnonzero(first_rows <= row)[-1])
    return int(fragments[last]), int(row - first_rows[last])
