"""Random draws of a step, the same whatever the number of ranks.

Law: one rank with the whole batch and N ranks with its parts draw the same numbers for the same row.
So draws belong to rows of the *global* batch. Its rows are cut into chunks; chunk c of the draw
`name` at `step` comes from a generator seeded with blake2b(seed, step, name, c). A rank makes the
chunks that its rows touch and keeps its own rows.

Draws are float32 and made on the device that uses them: CPU and CUDA generators give different
numbers from one seed, so runs are comparable within a kind of device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

ROWS_PER_CHUNK = {"cpu": 16, "cuda": 64}
"""Small, so that a rank with few rows draws little for others; larger where each chunk is a kernel."""

Draws = Mapping[str, Tensor]
"""Named random tensors, first axis rows."""


def seed_of(*parts: int | str) -> int:
    """63-bit seed from a path of numbers and words, such as (seed, step, name, chunk)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded_initialisation(*parts: int | str) -> Iterator[None]:
    """Networks built inside get weights from `seed_of(*parts)`; torch's global CPU generator is put back.

    Needed because timm and torch initialise from the global generator. Builds on the CPU, so that
    weights do not depend on the machine.
    """
    saved = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed_of(*parts))
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.default_generator.set_state(saved)


@dataclass(frozen=True)
class RowDraws:
    """Source of a step's draws for rows [first_row, first_row + rows) of the global batch."""

    seed: int
    step: int
    first_row: int
    rows: int
    device: torch.device

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(rows, *shape) float32, uniform in [low, high)."""
        return self._filled(name, shape, torch.float32, lambda out, g: out.uniform_(low, high, generator=g))

    def normal(self, name: str, *shape: int) -> Tensor:
        """(rows, *shape) float32, standard normal."""
        return self._filled(name, shape, torch.float32, lambda out, g: out.normal_(generator=g))

    def integers(self, name: str, *shape: int, end: int) -> Tensor:
        """(rows, *shape) int64, uniform in [0, end)."""
        return self._filled(name, shape, torch.int64, lambda out, g: out.random_(end, generator=g))

    def chi_squared(self, name: str, *shape: int, degrees: float) -> Tensor:
        """(rows, *shape) float32, chi-squared with that many degrees of freedom."""

        def fill(out: Tensor, generator: Generator) -> Tensor:
            # Twice a gamma variable of half the degrees; torch has no public way to give it a generator.
            return out.copy_(2.0 * torch._standard_gamma(out.fill_(degrees / 2), generator=generator))

        return self._filled(name, shape, torch.float32, fill)

    def _filled(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        fill: Callable[[Tensor, Generator], Tensor],
    ) -> Tensor:
        """This rank's rows of the draw `name` (unique within the step), filled chunk by chunk, in place."""
        per_chunk = self._rows_per_chunk
        first_chunk = self.first_row // per_chunk
        last_chunk = (self.first_row + self.rows - 1) // per_chunk
        rows = (last_chunk + 1 - first_chunk) * per_chunk
        chunks = torch.empty((rows, *shape), dtype=dtype, device=self.device)
        generator = Generator(device=self.device)
        for chunk, out in enumerate(chunks.split(per_chunk), first_chunk):
            generator.manual_seed(seed_of(self.seed, self.step, name, chunk))
            fill(out, generator)
        skip = self.first_row - first_chunk * per_chunk
        return chunks[skip : skip + self.rows]

    @property
    def _rows_per_chunk(self) -> int:
        return ROWS_PER_CHUNK.get(self.device.type, ROWS_PER_CHUNK["cpu"])

    def parts(self, rows_max: int) -> Iterator[RowDraws]:
        """Sources for consecutive parts of these rows.

        Each has at most `rows_max` rows or one chunk, and ends where a chunk ends, so that no chunk is made
        for two parts.
        """
        per_chunk = self._rows_per_chunk
        rows_max = max(rows_max // per_chunk, 1) * per_chunk
        first, last = self.first_row, self.first_row + self.rows
        while first < last:
            end = min(last, (first // per_chunk) * per_chunk + rows_max)
            yield replace(self, first_row=first, rows=end - first)
            first = end
