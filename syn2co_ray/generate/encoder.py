"""Features of images by a network with given weights: how alike generated and real images are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load as load_tensors

from ..data.decode import UnreadableImage, decode_rgb
from ..data.index import SourceIndex, read_fragments
from ..spec.errors import Fault, SpecError, first_line
from ..spec.generate import EncoderSpec
from ..spec.source import ObjectStoreSpec
from ..storage import open_store, read_bytes

PIXELS_MAX = 100_000_000
BATCH = 64
OWN_PREFIX = "encoder."
"""How a checkpoint of ours calls the online encoder."""


class Encoder:
    """Decoded images -> features."""

    def __init__(self, spec: EncoderSpec, options: ObjectStoreSpec, device: str) -> None:
        """Load.

        Raises:
            SpecError: no such model, or weights of another one.
            StorageError: the weights cannot be read.
        """
        self.spec, self.device = spec, device
        folder, _, name = spec.weights.rpartition("/")
        tensors = load_tensors(read_bytes(open_store(folder or ".", options), name))
        own = {key.removeprefix(OWN_PREFIX): t for key, t in tensors.items() if key.startswith(OWN_PREFIX)}
        others: dict[str, Any] = dict(spec.backbone_options)
        try:
            network: Any = timm.create_model(spec.backbone, num_classes=0, **others)
            network.load_state_dict(
                {key: t for key, t in (own or tensors).items() if key in network.state_dict()}
            )
        except (RuntimeError, TypeError) as error:
            got = f"{spec.backbone} with {spec.weights}: {first_line(error)}"
            step = "mend backbone, backbone_options or weights"
            raise SpecError([Fault("encoder", got, "a timm model and its weights", step)]) from None
        self.network = network.eval().to(device)
        self.num_features = int(network.num_features)

    @torch.no_grad()
    def __call__(self, images: Iterable[np.ndarray]) -> torch.Tensor:
        """(n, C) float32 on the CPU, from images (H, W, 3) uint8, squeezed to the encoder's size."""
        size = (self.spec.image_size, self.spec.image_size)
        left, parts = iter(images), []
        while some := list(islice(left, BATCH)):
            batch = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in some])
            pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float() / 255.0
            mean = pixels.new_tensor(timm.data.IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1)
            std = pixels.new_tensor(timm.data.IMAGENET_DEFAULT_STD).view(1, 3, 1, 1)
            parts.append(self.network((pixels - mean) / std).float().cpu())
        return torch.cat(parts) if parts else torch.zeros(0, self.num_features)

    def unit(self, images: Iterable[np.ndarray]) -> torch.Tensor:
        """The same with features of length 1."""
        return F.normalize(self(images), dim=1)


def decoded_images(
    index: SourceIndex, options: ObjectStoreSpec, images_max: int | None
) -> Iterator[np.ndarray]:
    """A source's readable images (H, W, 3) uint8, at most `images_max`."""
    left = images_max
    for fragment in range(len(index.fragment_rows)):
        table = read_fragments(index, [(fragment, None)], options, threads=1, columns=("key", "image"))[0]
        for encoded in table["image"]:
            if left == 0:
                return
            try:
                image = decode_rgb(encoded.as_py() or b"", pixels_max=PIXELS_MAX)
            except UnreadableImage:
                continue
            left = None if left is None else left - 1
            yield image
