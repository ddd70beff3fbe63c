"""Tokens of a whole frame, of any size, from a backbone that was made for square images.

A ViT gives the patch tokens after its last block and final norm, without class token; its positions are
resampled to the frame's grid, as timm does it. A backbone of several stages (Swin, ResNet, ConvNeXt) gives
the map of one stage; a Swin keeps the windows that it was trained with. Frames are resized with antialiasing,
where DINO's code takes OpenCV's plain bilinear: its figures can differ a little.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...augment.opencv_backend import resize_antialiased
from ...methods.normalise import normalise
from ...spec.errors import Fault, SpecError
from ...spec.video import VideoSegmentationSpec

TOKEN_PIXELS = 16
SIDE_MULTIPLE_PIXELS = 64
"""Of the longer side, as in DINO's evaluation."""


class Tokens:
    """A backbone as a function from a frame to unit vectors on a grid."""

    def __init__(
        self, backbone: nn.Module, image_size: int, spec: VideoSegmentationSpec, device: torch.device
    ) -> None:
        """Look which maps the backbone has.

        Args:
            backbone: of timm, in eval mode.
            image_size: height and width in pixels that it was made for.
            spec: which map is taken.
            device: where it is.

        Raises:
            SpecError: it has no map of features of other sizes, or none of `spec.token_pixels`.
        """
        self.backbone, self.device = backbone, device
        self.map_number, self.token_pixels, self.features = _map(backbone, image_size, spec, device)
        self.shorter_side_pixels = spec.shorter_side_pixels
        self._fitted: tuple[tuple[int, int], nn.Module] | None = None

    def __str__(self) -> str:
        which = "last map" if self.map_number == -1 else f"map {-self.map_number} from the end"
        return f"{which}, {self.token_pixels} pixels a token, {self.features} features"

    def shown(self, frame: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3) uint8 at the size that the backbone sees."""
        return resize_antialiased(frame, *self.frame_size(*frame.shape[:2]))

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels of what the backbone sees of a frame: whole tokens."""
        token = self.token_pixels
        multiple = SIDE_MULTIPLE_PIXELS if SIDE_MULTIPLE_PIXELS % token == 0 else token
        shorter = max(self.shorter_side_pixels // token, 1) * token
        ratio = max(height, width) / min(height, width)
        longer = max(int(self.shorter_side_pixels * ratio) // multiple, 1) * multiple
        return (shorter, longer) if height <= width else (longer, shorter)

    @torch.inference_mode()
    def __call__(self, shown: np.ndarray) -> Tensor:
        """(h, w, F) float32 of unit length, of a frame from `shown`."""
        image = torch.from_numpy(np.ascontiguousarray(shown.transpose(2, 0, 1))).unsqueeze(0)
        size = (image.shape[2], image.shape[3])
        if self._fitted is None or self._fitted[0] != size:
            self._fitted = (size, _fitted(self.backbone, *size))
        found = _maps(self._fitted[1], normalise(image.to(self.device)))[self.map_number][0].float()
        return F.normalize(found.permute(1, 2, 0), dim=2)


def _map(
    backbone: nn.Module, image_size: int, spec: VideoSegmentationSpec, device: torch.device
) -> tuple[int, int, int]:
    """Number from the end, pixels a token and features of the map that is taken."""
    size, wide = image_size, (image_size, 2 * image_size)
    try:
        with torch.inference_mode():
            maps = _maps(backbone, torch.zeros(1, 3, size, size, device=device))
            _maps(_fitted(backbone, *wide), torch.zeros(1, 3, *wide, device=device))
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        _refuse(
            f"{type(backbone).__name__} gives no map of features of a wide frame ({error})",
            "timm's ViT, Swin, ResNet, ConvNeXt, ...",
        )
    # Measured, because a changed stem changes what timm's own table says.
    pixels = [image_size // found.shape[-1] for found in maps]
    wanted = spec.token_pixels or TOKEN_PIXELS
    one_size = len(set(pixels)) == 1
    fine = [number for number, size in enumerate(pixels) if size <= wanted]
    if one_size and spec.token_pixels in (None, pixels[0]):
        number = len(maps) - 1
    elif one_size or not fine:
        _refuse(
            f"{wanted} pixels a token", f"one of {sorted(set(pixels))}", "video_segmentation.token_pixels"
        )
    else:
        number = fine[-1]
    return number - len(maps), pixels[number], maps[number].shape[1]


def _maps(backbone: Any, images: Tensor) -> list[Tensor]:
    """(1, F, h, w) of every block or stage."""
    return backbone.forward_intermediates(images, norm=True, intermediates_only=True)


def _fitted(backbone: nn.Module, height: int, width: int) -> nn.Module:
    """The backbone for frames of this size; a copy, where its tables of positions are resampled."""
    if not hasattr(backbone, "set_input_size"):
        return backbone  # convolutions take any size
    fitted: Any = copy.deepcopy(backbone)
    arguments: dict[str, Any] = {"img_size": (height, width)}
    if "window_size" in inspect.signature(fitted.set_input_size).parameters:
        # Left to itself, timm would widen the windows with the frame.
        arguments["window_size"] = tuple(fitted.layers[0].blocks[0].window_size)
    fitted.set_input_size(**arguments)
    return fitted


def _refuse(got: str, allowed: str, where: str = "video_segmentation") -> Any:
    raise SpecError([Fault(where, got, allowed, "change it, or leave video_segmentation out")])
