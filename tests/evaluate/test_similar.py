"""Search over embeddings: equal to scikit-learn's, duplicates planted among real images are found."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from syn2co_ray.evaluate.similar import near_duplicates, nearest, nearest_others

pytest.importorskip("faiss", reason="needs the extra `embed`")


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """1,797 real digits as unit vectors of 64 pixels, their mean taken away so that they spread."""
    pixels = load_digits().data.astype(np.float32)
    pixels -= pixels.mean(axis=0)
    return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


def test_neighbours_are_those_of_scikit_learn(digits: np.ndarray) -> None:
    rows, similarity = nearest(digits, digits[:300], 10)
    theirs = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(digits)
    distance, expected = theirs.kneighbors(digits[:300])
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)
    # Where two are equally far, either may come first.
    assert (rows == expected).mean() > 0.999
    others, alike = nearest_others(digits, np.arange(300), 9)
    assert not (others == np.arange(300)[:, None]).any()
    np.testing.assert_allclose(alike, similarity[:, 1:], atol=1e-6)


def test_pairs_are_all_of_scikit_learns_within_the_radius(digits: np.ndarray) -> None:
    theirs = NearestNeighbors(metric="cosine", algorithm="brute").fit(digits)
    graph = theirs.radius_neighbors_graph(digits, radius=1 - 0.9, mode="distance").tocoo()
    expected = {(a, b) for a, b in zip(graph.row.tolist(), graph.col.tolist(), strict=True) if a < b}
    found = near_duplicates(digits, 0.9, 10**6)
    assert found.complete
    assert len(expected) > 50
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    assert (np.diff(found.similarity) <= 0).all()


def test_planted_duplicates_are_found_and_grouped(digits: np.ndarray) -> None:
    """Each of 40 digits again, and ten of them a third time, with a little noise."""
    generator = np.random.default_rng(0)
    planted = np.concatenate([np.arange(0, 1600, 40), np.arange(0, 400, 40)])
    noisy = digits[planted] + generator.normal(0, 0.003, (len(planted), 64)).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    found = near_duplicates(np.concatenate([digits, noisy]), 0.995, 10**6)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    own = near_duplicates(digits, 0.995, 10**6)
    expected = {(int(row), len(digits) + place) for place, row in enumerate(planted)}
    expected |= {(len(digits) + place, len(digits) + 40 + place) for place in range(10)}
    assert expected <= pairs
    assert len(pairs - expected) == len(own)
    assert found.groups(len(digits) + 50) == (
        40 + own.groups(len(digits))[0],
        50 + own.groups(len(digits))[1],
    )


def test_equal_vectors_are_pairs_at_1_and_the_search_ends_where_it_is_told() -> None:
    vectors = np.repeat(np.eye(3, 8, dtype=np.float32), [600, 1, 2], axis=0)
    found = near_duplicates(vectors, 1.0, 10**6)
    assert (len(found), found.complete) == (600 * 599 // 2 + 1, True)
    assert found.groups(603) == (2, 600)
    few = near_duplicates(vectors, 1.0, 1000)
    assert (len(few), few.complete) == (1000, False)
    rows, similarity = nearest_others(vectors, np.array([5, 600]), 700)
    assert rows.shape == (2, 602)
    assert all(len(set(row)) == 602 for row in rows.tolist())
    assert 600 not in rows[1]
    assert similarity[0, 0] == 1.0


def test_a_look_finds_no_more_at_once_than_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    asked = []

    class Watched(faiss.IndexFlatIP):
        def range_search(self, queries, *rest):
            asked.append(len(queries))
            return super().range_search(queries, *rest)

    monkeypatch.setattr(faiss, "IndexFlatIP", Watched)
    monkeypatch.setattr("syn2co_ray.evaluate.similar.FOUND_AT_ONCE", 3000)
    vectors = np.repeat(np.eye(1, 8, dtype=np.float32), 600, axis=0)
    assert len(near_duplicates(vectors, 1.0, 10**6)) == 600 * 599 // 2
    assert asked == [5] * 120
    assert not near_duplicates(vectors, 1.0, 1000).complete
    assert asked[120:] == [5]


def test_nothing_alike_is_no_pair() -> None:
    found = near_duplicates(np.eye(5, dtype=np.float32), 0.5, 10)
    assert (len(found), found.complete, found.groups(5)) == (0, True, (0, 0))
