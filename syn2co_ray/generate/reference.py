"""Perceptual hashes of real images that no generated one may repeat."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np

from ..data.decode import UnreadableImage, decode_rgb
from ..data.index import SourceIndex, read_fragments
from ..spec.source import ObjectStoreSpec
from .encoder import PIXELS_MAX
from .gate import ReferenceHashes, perceptual_hash


def saved(reference: ReferenceHashes) -> bytes:
    """As a file."""
    buffer = io.BytesIO()
    np.savez(
        buffer, hashes=reference.hashes, set_of=reference.set_of, uris=np.array(reference.uris, dtype=str)
    )
    return buffer.getvalue()


def loaded(data: bytes) -> ReferenceHashes:
    """What `saved` gave."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return ReferenceHashes(arrays["hashes"], arrays["set_of"], tuple(map(str, arrays["uris"])))


def fingerprint_of(indexes: Sequence[SourceIndex]) -> str:
    """Names the contents of the reference sets."""
    return hashlib.sha256("\n".join(index.fingerprint for index in indexes).encode()).hexdigest()[:12]


def fragment_hashes(index: SourceIndex, fragment: int, options: ObjectStoreSpec) -> np.ndarray:
    """Hashes (rows,) uint64 of a fragment's readable images."""
    table = read_fragments(index, [(fragment, None)], options, threads=1, columns=("key", "image"))[0]
    hashes = []
    for encoded in table["image"]:
        try:
            hashes.append(perceptual_hash(decode_rgb(encoded.as_py() or b"", pixels_max=PIXELS_MAX)))
        except UnreadableImage:
            continue
    return np.array(hashes, dtype=np.uint64)
