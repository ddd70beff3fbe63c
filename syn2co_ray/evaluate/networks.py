"""Something that embeds, here or, packed, in an actor of another machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..methods.encoders import build_encoder
from ..methods.normalise import normalise
from ..spec.method import BackboneSpec
from .feature_shards import Network
from .features import raw_pixels
from .protocols import PIXELS
from .weights import LoadedBackbone


@dataclass(frozen=True)
class PackedNetwork:
    """A network as plain values, to be sent once to each machine."""

    name: str
    digest: str
    architecture: BackboneSpec | None
    """None for raw pixels."""
    image_size: int
    tensors: Mapping[str, Tensor]


def network_of(name: str, loaded: LoadedBackbone, device: torch.device) -> Network:
    """The backbone on a device, called as features are made: without gradients, on normalised images."""
    return _network(name, loaded.digest, loaded.network, device)


def pixels_network() -> Network:
    """Raw pixels, the features of no network at all."""
    return Network(PIXELS, PIXELS, raw_pixels)


def packed(name: str, loaded: LoadedBackbone) -> PackedNetwork:
    """The backbone, on its way to actors."""
    tensors = {key: tensor.detach().cpu() for key, tensor in loaded.network.state_dict().items()}
    return PackedNetwork(name, loaded.digest, loaded.architecture, loaded.image_size, tensors)


def packed_pixels() -> PackedNetwork:
    """Raw pixels, likewise."""
    return PackedNetwork(PIXELS, PIXELS, None, 0, {})


def unpacked(network: PackedNetwork, device: torch.device) -> Network:
    """The network that was packed, on a device."""
    if network.architecture is None:
        return pixels_network()
    backbone = build_encoder(network.architecture, network.image_size, 0.0)
    backbone.load_state_dict(dict(network.tensors))
    backbone.eval().requires_grad_(False)
    return _network(network.name, network.digest, backbone, device)


def _network(name: str, digest: str, backbone: nn.Module, device: torch.device) -> Network:
    backbone = backbone.to(device)

    def embed(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return backbone(normalise(images))

    return Network(name, digest, embed, backbone)
