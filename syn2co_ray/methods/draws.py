"""Random draws of a step, the same whatever the number of ranks.

Law: one rank with the whole batch and N ranks with its parts draw the same numbers for the same row.
So draws belong to rows of the *global* batch. Its rows are cut into chunks of 16; chunk c of the draw
`name` at `step` comes from a generator seeded with blake2b(seed, step, name, c). A rank makes the
chunks that its rows touch and keeps its own rows.

Draws are float32 and made on the device that uses them: CPU and CUDA generators give different
numbers from one seed, so runs are comparable within a kind of device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

ROWS_PER_CHUNK = 16

Draws = dict[str, Tensor]
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

    def make(self, name: str, draw: Callable[[Generator, int], Draws]) -> Draws:
        """Draws for this rank's rows.

        Args:
            name: what is drawn, unique within the step.
            draw: (generator, rows) -> named tensors whose first axis has `rows` rows.

        Returns:
            The same names, first axis this rank's rows.
        """
        first_chunk = self.first_row // ROWS_PER_CHUNK
        last_chunk = (self.first_row + self.rows - 1) // ROWS_PER_CHUNK
        generator = Generator(device=self.device)
        blocks = []
        for chunk in range(first_chunk, last_chunk + 1):
            generator.manual_seed(seed_of(self.seed, self.step, name, chunk))
            blocks.append(draw(generator, ROWS_PER_CHUNK))
        skip = self.first_row - first_chunk * ROWS_PER_CHUNK
        return {
            key: torch.cat([block[key] for block in blocks])[skip : skip + self.rows] for key in blocks[0]
        }
