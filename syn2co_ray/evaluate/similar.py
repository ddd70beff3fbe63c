"""Which images are alike: exact search over embeddings, by faiss (extra `embed`).

Similarity is the cosine, of unit vectors the inner product. Every image is compared with every other one:
nothing is left to an index that may miss some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..spec.errors import Fault, SpecError
from .nearest import NearestRows

QUERIES_AT_ONCE = 256
FOUND_AT_ONCE = 20_000_000
"""Pairs that one look may find, were all images alike: so much memory it takes, whatever `pairs_max` is."""
ROUNDING = 1e-6
"""Equal vectors may come out less alike than 1 by so much."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows, the most alike first; `first` < `second`."""

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    complete: bool
    """False: the search ended early, with as many pairs as were asked for."""

    def __len__(self) -> int:
        return len(self.first)

    def groups(self, images: int) -> tuple[int, int]:
        """Groups of images that pairs connect, and images that would go if one of each group stayed."""
        if not len(self):
            return 0, 0
        ones = np.ones(len(self), bool)
        graph = coo_array((ones, (self.first, self.second)), shape=(images, images))
        _, group = connected_components(graph, directed=False)
        sizes = np.bincount(group)
        return int((sizes > 1).sum()), int((sizes[sizes > 1] - 1).sum())


def check_search_is_there(where: str) -> None:
    """Refuse early what would fail at the end.

    Raises:
        SpecError: faiss is not installed.
    """
    try:
        import faiss  # noqa: F401
    except ImportError:
        step = "pip install 'syn2co_ray[embed]', or set near_duplicates and neighbours to null"
        raise SpecError([Fault(where, "asked for, without faiss", "with extra `embed`", step)]) from None


def near_duplicates(vectors: np.ndarray, similarity_min: float, pairs_max: int) -> Pairs:
    """All pairs of at least this similarity.

    Args:
        vectors: (n, F) float32 of length 1.
        similarity_min: least cosine.
        pairs_max: the search ends with that many.
    """
    import faiss

    parts, count = [], 0
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    complete, step = True, max(1, min(QUERIES_AT_ONCE, FOUND_AT_ONCE // len(vectors)))
    for start in range(0, len(vectors), step):
        queries = vectors[start : start + step]
        limits, similarity, other = index.range_search(queries, similarity_min - ROUNDING)
        own = np.repeat(np.arange(start, start + len(queries)), np.diff(limits.astype(np.int64)))
        later = other > own
        parts.append((own[later], other[later], similarity[later]))
        count += int(later.sum())
        if count > pairs_max:
            complete = False
            break
    first, second, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((second, first, -similarity))[:pairs_max]
    return Pairs(first[order], second[order], np.minimum(similarity[order], 1.0), complete)


def nearest(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows most like each query, (q, k) int64, and how much, (q, k) float32; the most alike first."""
    return NearestRows(vectors, "faiss").search(queries, k)


def nearest_others(vectors: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, of rows of the set: each without itself, so (q, k) with k at most n - 1."""
    k = min(k, len(vectors) - 1)
    found, similarity = nearest(vectors, vectors[rows], k + 1)
    # Of equal images any may come first, even k + 1 others: then the last of them goes.
    own = found == rows[:, None]
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(-1, k), similarity[~own].reshape(-1, k)
