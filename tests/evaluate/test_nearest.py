"""Search by cosine: both ways agree with a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from syn2co_ray.evaluate.nearest import NearestRows, unit_rows


@pytest.mark.parametrize("search", ["faiss", "torch"])
def test_the_nearest_rows_are_those_of_a_plain_loop(search) -> None:
    if search == "faiss":
        pytest.importorskip("faiss", reason="needs faiss-cpu")
    rng = np.random.default_rng(0)
    rows, queries = rng.normal(size=(200, 24)), rng.normal(size=(7, 24)) * 50
    rows[3] = 0.0
    found = NearestRows(unit_rows(rows), search)
    assert (found.search_by, found.rows, found.features) == (search, 200, 24)
    numbers, similarities = found.search(queries.astype(np.float32), 5)
    for query, got, near in zip(queries, numbers, similarities, strict=True):
        cosines = [float(row @ query / (np.linalg.norm(row) * np.linalg.norm(query) + 1e-30)) for row in rows]
        assert got.tolist() == np.argsort(cosines)[::-1][:5].tolist()
        assert near == pytest.approx(sorted(cosines, reverse=True)[:5], abs=1e-6)


def test_more_neighbours_than_rows_are_all_rows() -> None:
    numbers, similarities = NearestRows(np.eye(3, dtype=np.float32), "torch").search(np.eye(3)[:1], 10)
    assert sorted(numbers[0].tolist()) == [0, 1, 2]
    assert similarities[0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("search", ["faiss", "torch"])
def test_the_vectors_are_kept_themselves(search) -> None:
    if search == "faiss":
        pytest.importorskip("faiss", reason="needs faiss-cpu")
    vectors = np.eye(4, dtype=np.float32)
    found = NearestRows(vectors, search)
    vectors[:] = vectors[::-1].copy()
    assert found.search(vectors[:1], 1)[0].tolist() == [[0]]
    assert found.search(np.eye(4, dtype=np.float32)[:1], 1)[0].tolist() == [[3]]
