"""Counter-based random generators that are named, not shared.

A generator is a pure function of its name parts, such as (seed, "rows", epoch, window): no draw
depends on which process makes it, or on what was drawn before.
"""

from __future__ import annotations

import hashlib

import numpy as np


def digest_words(*parts: object) -> np.ndarray:
    """Two 64-bit words (uint64, shape (2,)) that stand for the parts."""
    text = "\x1f".join(str(part) for part in parts)
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), dtype=np.uint64)


def named_generator(*parts: object) -> np.random.Generator:
    """A Philox generator keyed by the parts."""
    return np.random.Generator(np.random.Philox(key=digest_words(*parts)))
