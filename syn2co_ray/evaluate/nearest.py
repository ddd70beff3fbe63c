"""Nearest rows of a set of embeddings by cosine similarity, exactly: every query meets every row."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal

import numpy as np
import torch


class NearestRows:
    """A set that stays in memory and is asked again and again.

    faiss on the CPU where it is installed and torch sees no GPU, else one matrix product of torch.
    """

    def __init__(self, vectors: np.ndarray, search: Literal["faiss", "torch"] | None = None) -> None:
        """Keep `vectors`, (N, F) float32 of length 1 (or 0): themselves, no copy, unless torch moves them to
        a GPU. `search` is chosen when None."""
        has_gpu = torch.cuda.is_available()
        has_faiss = importlib.util.find_spec("faiss") is not None
        self.search_by = search or ("faiss" if has_faiss and not has_gpu else "torch")
        self.rows, self.features = vectors.shape
        self._faiss: Any = importlib.import_module("faiss") if self.search_by == "faiss" else None
        device = "cuda" if has_gpu and self._faiss is None else "cpu"
        self._bank = torch.from_numpy(np.ascontiguousarray(vectors, np.float32)).to(device)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of each query, best first.

        Args:
            queries: (n, F) float32, of any length.
            k: how many; all rows where there are fewer.

        Returns:
            Rows (n, k) int64 and cosines (n, k) float32, at most 1; among equal cosines the order is left
            open.
        """
        k, unit = min(k, self.rows), unit_rows(queries)
        if self._faiss is not None:
            # As an IndexFlatIP searches, which would hold the vectors once more.
            metric = self._faiss.METRIC_INNER_PRODUCT
            similarities, rows = self._faiss.knn(unit, self._bank.numpy(), k, metric=metric)
        else:
            found, columns = (torch.from_numpy(unit).to(self._bank.device) @ self._bank.T).topk(k, dim=1)
            similarities, rows = found.cpu().numpy(), columns.cpu().numpy()
        return rows, np.minimum(similarities, 1.0)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1 (a row of zeros stays one), float32."""
    vectors = vectors.astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(vectors)
