"""Faster R-CNN (arXiv 1506.01497) and Mask R-CNN (1703.06870): torchvision's parts on our backbones.

Heads are the common ones: two hidden layers for boxes and four convolutions for masks on a pyramid, the last
stage of the ResNet for C4. Batch norms inside a ResNet go on learning, with the statistics of the step's
images, as MoCo's protocol has it (arXiv 1911.05722, section 4.2); on few images a step they are noisy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from ...methods.draws import seeded_initialisation
from ...methods.normalise import normalise
from ...spec.detection import DetectionSpec, Neck
from .necks import FIRST_STAGE_OF_HEAD, build_body
from .sampling import ImageSampler

ANCHORS = 5
ASPECT_RATIOS = (0.5, 1.0, 2.0)
PYRAMID_LEVELS = ["0", "1", "2", "3"]
"""Those that regions are cut from; the coarsest serves proposals alone."""

PARTS = {
    "loss_objectness": "anchors",
    "loss_rpn_box_reg": "anchors",
    "loss_classifier": "regions",
    "loss_box_reg": "regions",
    "loss_mask": "objects",
}
"""Parts of the loss, and what each is a mean over."""

Objects = dict[str, Tensor]
"""boxes (m, 4) float32, labels (m,) int64 from 1; with masks (m, S, S) uint8 as truth, and with scores (m,),
masks (m, 1, 28, 28) of probabilities in their boxes as found."""


class Detector(nn.Module):
    """uint8 images (n, 3, S, S) -> losses in training, else the objects found, in pixels of these images.

    Attributes:
        body_dtype: of autocast in backbone and neck; None for none. Anchors would be rounded by it.
    """

    def __init__(self, body: nn.Module, rpn: nn.Module, heads: nn.Module, neck: Neck) -> None:
        super().__init__()
        self.body, self.rpn, self.heads, self.neck = body, rpn, heads, neck
        self.body_dtype: torch.dtype | None = None
        for part in (rpn, heads):
            old = cast(Any, part).fg_bg_sampler
            cast(Any, part).fg_bg_sampler = ImageSampler(old.batch_size_per_image, old.positive_fraction)

    def forward(self, images: Tensor, truth: list[Objects] | None = None, seeds: Sequence[int] = ()) -> Any:
        """Losses by name in training mode, which needs `truth`; else a list of what was found in each.

        `seeds`, one an image, decide which anchors and regions are learned from.
        """
        for part in (self.rpn, self.heads):
            cast(Any, part).fg_bg_sampler.seeds = seeds
        # All images have the whole square: regions are cut at scales told by its size.
        batch = ImageList(normalise(images), [tuple(images.shape[-2:])] * len(images))
        maps = self._maps(batch.tensors)
        proposals, proposal_losses = self.rpn(batch, maps, truth)
        found, losses = self.heads(maps, proposals, batch.image_sizes, truth)
        return {**losses, **proposal_losses} if self.training else found

    def counted(self) -> dict[str, int]:
        """How many anchors, regions and objects the last losses are means over (see `PARTS`)."""
        anchors, regions = (cast(Any, part).fg_bg_sampler for part in (self.rpn, self.heads))
        return {"anchors": anchors.taken, "regions": regions.taken, "objects": regions.objects}

    def _maps(self, pixels: Tensor) -> dict[str, Tensor]:
        if self.body_dtype is None:
            return cast(dict[str, Tensor], self.body(pixels))
        with torch.autocast(pixels.device.type, dtype=self.body_dtype):
            maps = self.body(pixels)
        return {name: values.float() for name, values in maps.items()}


def build_detector(network: nn.Module, categories: int, spec: DetectionSpec, seed: int) -> Detector:
    """A detector on a copy of the backbone; everything else in it starts from the seed.

    Args:
        network: a backbone made for images of `spec.image_size`.
        categories: how many there are, without background.
        spec: neck, widths, anchors, and whether masks are found.
        seed: of necks and heads; the same for every backbone.

    Raises:
        SpecError: a neck that does not suit the backbone.
    """
    with seeded_initialisation(seed, "detection"):
        body, neck = build_body(copy.deepcopy(network), spec.neck, spec.channels, spec.image_size)
        options = _c4_heads(body, categories, spec) if neck == "c4" else _pyramid_heads(categories, spec)
        options |= _sampling(spec)
        kind = MaskRCNN if spec.masks else FasterRCNN
        parts = kind(body, rpn_anchor_generator=_anchors(neck, spec), **options)
    return Detector(body, parts.rpn, parts.roi_heads, neck).requires_grad_(True)


def parameter_groups(detector: Detector, spec: DetectionSpec) -> list[dict[str, Any]]:
    """Groups for AdamW; `lr_scale` is the part of the rate that a layer of the backbone learns at."""
    body = cast(Any, detector.body)
    groups = param_groups_layer_decay(
        body.network,
        weight_decay=spec.weight_decay,
        no_weight_decay_list=getattr(body.network, "no_weight_decay", set)(),
        layer_decay=spec.layer_decay,
    )
    known = {parameter for group in groups for parameter in group["params"]}
    others = [parameter for parameter in detector.parameters() if parameter not in known]
    groups.append({"params": [p for p in others if p.ndim > 1], "weight_decay": spec.weight_decay})
    groups.append({"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0})
    return [{"lr_scale": 1.0, **group} for group in groups]


class LastStage(nn.Module):
    """C4's head: the ResNet's last stage on regions (m, C, 14, 14), then the mean -> (m, width)."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, regions: Tensor) -> Tensor:
        return cast(Tensor, self.stage(regions).mean(dim=(2, 3)))


class SharedStage(nn.Module):
    """The same stage for masks, whose weights are the box head's."""

    def __init__(self, owner: LastStage) -> None:
        super().__init__()
        # In a tuple: registered twice, every tensor would stand twice in a checkpoint.
        self.owner = (owner,)

    def forward(self, regions: Tensor) -> Tensor:
        return cast(Tensor, self.owner[0].stage(regions))


def _anchors(neck: Neck, spec: DetectionSpec) -> AnchorGenerator:
    sizes = [spec.anchor_size_smallest * 2**number for number in range(ANCHORS)]
    by_map = (tuple(sizes),) if neck == "c4" else tuple((size,) for size in sizes)
    return AnchorGenerator(by_map, (ASPECT_RATIOS,) * len(by_map))


def _sampling(spec: DetectionSpec) -> dict[str, Any]:
    most = spec.proposals_per_image
    return {
        "rpn_pre_nms_top_n_train": 2 * most,
        "rpn_pre_nms_top_n_test": most,
        "rpn_post_nms_top_n_train": most,
        "rpn_post_nms_top_n_test": most,
        "rpn_batch_size_per_image": min(256, spec.regions_per_image),
        "box_batch_size_per_image": spec.regions_per_image,
    }


def _pyramid_heads(categories: int, spec: DetectionSpec) -> dict[str, Any]:
    width, hidden = spec.channels, 4 * spec.channels
    options: dict[str, Any] = {
        "box_roi_pool": MultiScaleRoIAlign(PYRAMID_LEVELS, 7, 2),
        "box_head": TwoMLPHead(width * 7 * 7, hidden),
        "box_predictor": FastRCNNPredictor(hidden, categories + 1),
    }
    if spec.masks:
        options |= {
            "mask_roi_pool": MultiScaleRoIAlign(PYRAMID_LEVELS, 14, 2),
            "mask_head": MaskRCNNHeads(width, (width,) * 4, 1),
            "mask_predictor": MaskRCNNPredictor(width, width, categories + 1),
        }
    return options


def _c4_heads(body: nn.Module, categories: int, spec: DetectionSpec) -> dict[str, Any]:
    network = cast(Any, body).network
    head = LastStage(getattr(network, FIRST_STAGE_OF_HEAD))
    setattr(network, FIRST_STAGE_OF_HEAD, nn.Identity())
    width = network.num_features
    options: dict[str, Any] = {
        "box_roi_pool": MultiScaleRoIAlign(["0"], 14, 2),
        "box_head": head,
        "box_predictor": FastRCNNPredictor(width, categories + 1),
    }
    if spec.masks:
        options |= {
            "mask_roi_pool": MultiScaleRoIAlign(["0"], 14, 2),
            "mask_head": SharedStage(head),
            "mask_predictor": MaskRCNNPredictor(width, spec.channels, categories + 1),
        }
    return options
