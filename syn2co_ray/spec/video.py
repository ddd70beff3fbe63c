"""Section `video_segmentation` of `kind: evaluate`: does a backbone follow objects through a video?"""

from __future__ import annotations

from pydantic import Field

from .base import Section


class VideoSegmentationSpec(Section):
    """Masks of the first frame carried through a video by frozen features, scored as DAVIS does (J and F).

    Label propagation as of Jabri et al. (arXiv 2006.14613); the defaults are those of DINO's evaluation on
    DAVIS 2017 (arXiv 2104.14294, its `eval_video_segmentation.py`).
    """

    uri: str = Field(min_length=1)
    """Folder or prefix in the layout of DAVIS: JPEGImages/<resolution>/<sequence>/00000.jpg ... and
    Annotations/<resolution>/<sequence>/00000.png ..., masks of the same names."""
    resolution: str | None = Field(default="480p", min_length=1)
    """Name of the folder between; null where the sequences are right below JPEGImages and Annotations."""
    image_set: str | None = Field(default=None, min_length=1)
    """File below `uri` with a sequence's name a line (`ImageSets/2017/val.txt`); when left out, every
    sequence of Annotations."""
    shorter_side_pixels: int = Field(default=480, ge=16)
    """Frames are brought to this height (or width, where that is smaller), rounded down to whole tokens; the
    other side keeps the proportions, rounded down to a multiple of 64."""
    token_pixels: int | None = Field(default=None, ge=1)
    """Of backbones with several maps (Swin, ResNet, ConvNeXt): the map with so many pixels a token, 16 when
    left out (Swin's and ResNet's third stage), or the next finer there is. A ViT has one map, after its last
    block."""
    neighbourhood_tokens: int | None = Field(default=12, ge=0)
    """A token looks at those of other frames at most so many rows and columns away; null: at all."""
    context_frames: int = Field(default=7, ge=0)
    """Frames before the present one that are looked at, besides the first, which is always."""
    top_k: int = Field(default=5, ge=1)
    """Most similar tokens, of all frames looked at together, whose labels are taken."""
    temperature: float = Field(default=0.1, gt=0)
    """They weigh exp(cosine similarity / temperature)."""
