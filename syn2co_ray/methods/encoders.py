"""The encoder that a spec asks for: a timm backbone, with its stem or its positions changed where asked."""

from __future__ import annotations

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from syn2co_ray.spec.errors import Fault, SpecError
from syn2co_ray.spec.method import BackboneSpec

from .backbones import build_backbone


def build_encoder(spec: BackboneSpec, image_size: int, drop_path: float) -> nn.Module:
    """(n, 3, image_size, image_size) -> (n, num_features), randomly initialised.

    Args:
        spec: section `method`.
        image_size: height and width of a view in pixels.
        drop_path: stochastic depth rate of the last block, in [0, 1).

    Raises:
        SpecError: see `build_backbone`; or a change that the backbone has no place for.
    """
    encoder = build_backbone(spec.backbone, image_size, spec.patch_size, drop_path, spec.backbone_options)
    if spec.small_image_stem:
        use_small_image_stem(encoder, spec.backbone)
    if spec.positions == "sincos":
        use_fixed_positions(encoder, spec.backbone)
    return encoder


def use_small_image_stem(encoder: nn.Module, name: str) -> None:
    """A ResNet's first convolution, 7 x 7 of stride 2, becomes 3 x 3 of stride 1; its pooling goes. In place.

    As usual for images of 32 pixels (SimCLR, arXiv 2002.05709, appendix B.9), which would arrive at the
    first stage with 8.
    """
    first, pooling = getattr(encoder, "conv1", None), getattr(encoder, "maxpool", None)
    if not isinstance(first, nn.Conv2d) or pooling is None:
        got = f"true, but {name} has no ResNet stem"
        raise SpecError([Fault("method.small_image_stem", got, "true for ResNets", "leave it out")])
    replacement = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
    nn.init.kaiming_normal_(replacement.weight, mode="fan_out", nonlinearity="relu")
    encoder.conv1, encoder.maxpool = replacement, nn.Identity()


def use_fixed_positions(encoder: nn.Module, name: str) -> None:
    """A ViT's learned positions become fixed sines and cosines of row and column, in place.

    MoCo v3 (arXiv 2104.02057, section 5.1 and its code): a quarter of the features each for sine and cosine
    of row and column, wavelengths from 2 pi to 10,000 * 2 pi patches; zeros for the class token.
    """
    learned = getattr(encoder, "pos_embed", None)
    grid = getattr(getattr(encoder, "patch_embed", None), "grid_size", None)
    if not isinstance(learned, nn.Parameter) or learned.ndim != 3 or grid is None:
        got = f"sincos, but {name} has no learned table of positions"
        raise SpecError([Fault("method.positions", got, "learned, or sincos for ViTs", "leave it out")])
    width = learned.shape[2]
    if width % 4:
        got = f"sincos with {width} features"
        raise SpecError([Fault("method.positions", got, "a width that is a multiple of 4", "change it")])
    patches = build_sincos2d_pos_embed(list(grid), width)
    tokens = learned.shape[1] - len(patches)
    fixed = torch.cat([torch.zeros(tokens, width), patches]).unsqueeze(0)
    with torch.no_grad():
        learned.copy_(fixed)
    learned.requires_grad_(False)


@torch.no_grad()
def use_moco_v3_weights(encoder: nn.Module) -> None:
    """Draw a ViT's weights again as MoCo v3's published code does, in place; of others the patch projection.

    Uniform in +-sqrt(6 / (inputs + outputs)) (Glorot & Bengio 2010), for queries, keys and values as three
    matrices, for the patch projection as one that takes a whole patch; no biases; the class token is near 0.
    timm's are truncated normals of deviation 0.02, less than half as wide in a ViT-S.
    """
    projection = patch_projection(encoder)
    if projection is not None:
        _start_uniform(projection.weight.flatten(1), projection.bias)
    if not isinstance(encoder, VisionTransformer):
        return
    for name, layer in encoder.named_modules():
        if isinstance(layer, nn.Linear):
            for matrix in layer.weight.chunk(3 if name.endswith(".qkv") else 1):
                _start_uniform(matrix, layer.bias)
    if encoder.cls_token is not None:
        nn.init.normal_(encoder.cls_token, std=1e-6)


def patch_projection(encoder: nn.Module) -> nn.Conv2d | None:
    """The convolution that makes tokens of patches, if the encoder has one."""
    projection = getattr(getattr(encoder, "patch_embed", None), "proj", None)
    return projection if isinstance(projection, nn.Conv2d) else None


def _start_uniform(matrix: Tensor, bias: Tensor | None) -> None:
    nn.init.xavier_uniform_(matrix)
    if bias is not None:
        nn.init.zeros_(bias)
