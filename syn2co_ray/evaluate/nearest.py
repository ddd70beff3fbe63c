"""Nearest rows of a set of embeddings by cosine similarity, exactly: every query meets every row."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import numpy as np
import torch


class NearestRows:
    """A set that stays in memory and is asked again and again.

    faiss on the CPU where it is installed and torch sees no GPU, else one matrix product of torch.
    """

    def __init__(self, embeddings: np.ndarray, search: Literal["faiss", "torch"] | None = None) -> None:
        """Keep unit vectors of `embeddings`, (N, F) float32; `search` is chosen when None."""
        has_gpu = torch.cuda.is_available()
        has_faiss = importlib.util.find_spec("faiss") is not None
        self.search_by = search or ("faiss" if has_faiss and not has_gpu else "torch")
        self.rows, self.features = embeddings.shape
        unit = _unit(embeddings)
        self._index: Any = None
        if self.search_by == "faiss":
            import faiss

            self._index = faiss.IndexFlatIP(self.features)
            self._index.add(unit)
        else:
            self._bank = torch.from_numpy(unit).to("cuda" if has_gpu else "cpu")

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of each query, best first.

        Args:
            queries: (n, F) float32, of any length.
            k: how many; all rows where there are fewer.

        Returns:
            Rows (n, k) int64 and cosines (n, k) float32; among equal cosines the order is left open.
        """
        k, unit = min(k, self.rows), _unit(queries)
        if self._index is not None:
            similarities, rows = self._index.search(unit, k)
            return rows, similarities
        products = torch.from_numpy(unit).to(self._bank.device) @ self._bank.T
        found, columns = products.topk(k, dim=1)
        return columns.cpu().numpy(), found.cpu().numpy()


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1 (a row of zeros stays one), float32."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
