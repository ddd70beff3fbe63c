"""Annotated images as both formats give them; what cannot be used is counted and named, never silent."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ...spec.errors import DataError
from ...storage import Store

Box = tuple[float, float, float, float]
"""Left, upper, right, lower edge in pixels of the image; the first pixel spans 0 to 1."""


@dataclass(frozen=True)
class Instance:
    """One object."""

    category: str
    box: Box
    area: float
    """Square pixels, of the mask where there is one: tells small from large."""
    ignored: bool = False
    """A crowd, or a difficult one: AP neither asks for it nor holds it against a detector. Crowds are not
    learned from."""
    crowd: bool = False
    mask: dict[str, Any] | list[list[float]] | None = None
    """COCO's run lengths {size, counts} or polygons; None without one."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file below the set's folder, and its objects."""

    file: str
    width: int
    height: int
    instances: tuple[Instance, ...]


@dataclass
class Findings:
    """What could not be used as it is, by reason: how often, and where first."""

    images: Counter[str] = field(default_factory=Counter)
    """Images left out."""
    boxes: Counter[str] = field(default_factory=Counter)
    """Boxes left out."""
    changed: Counter[str] = field(default_factory=Counter)
    """Boxes kept in another form."""
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, reason: str, where: str) -> None:
        """Count one of `images`, `boxes` or `changed`."""
        getattr(self, kind)[reason] += 1
        self.first.setdefault(reason, where)

    def lines(self, name: str, images: int, boxes: int) -> list[str]:
        """One sentence a reason.

        Args:
            name: of the set.
            images: how many the set names.
            boxes: how many it has for them.
        """
        kinds = (("images", "left out", images), ("boxes", "left out", boxes), ("changed", "kept", boxes))
        return [
            f"{name}: {count:,} of {total:,} {'images' if kind == 'images' else 'boxes'} {reason} "
            f"(first: {self.first[reason]}): {done}"
            for kind, done, total in kinds
            for reason, count in sorted(getattr(self, kind).items())
        ]


@dataclass(frozen=True)
class AnnotatedSet:
    """Usable images in the order of their file names."""

    name: str
    """Dotted key of the section that names it."""
    uri: str
    """Of the annotations."""
    store: Store
    """Folder of the images."""
    images: tuple[AnnotatedImage, ...]
    categories: tuple[str, ...]
    """Sorted names."""
    warnings: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that is annotated; not of the images' bytes."""
        whole = hashlib.sha256()
        for image in self.images:
            whole.update(repr(image).encode())
        return whole.hexdigest()

    @property
    def boxes(self) -> int:
        """Objects of all images."""
        return sum(len(image.instances) for image in self.images)


def usable_box(box: Any, width: int, height: int, findings: Findings, where: str) -> Box | None:
    """The box inside its image, None if there is nothing of it; what is odd goes into `findings`.

    Args:
        box: four edges, as read.
        width, height: of the image in pixels.
        findings: where it is counted.
        where: names the object.
    """
    if len(box) != 4 or not all(is_finite(edge) for edge in box):
        findings.add("boxes", "are not four finite numbers", where)
        return None
    left, upper, right, lower = map(float, box)
    if right <= left or lower <= upper:
        findings.add("boxes", "have no area", where)
        return None
    inside = (max(left, 0.0), max(upper, 0.0), min(right, float(width)), min(lower, float(height)))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        findings.add("boxes", "are outside of their image", where)
        return None
    if inside != (left, upper, right, lower):
        findings.add("changed", "reach out of their image and are clipped", where)
    return inside


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether it is a number that fits a float: JSON's integers may be of any length."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def checked_set(
    name: str,
    uri: str,
    store: Store,
    images: Sequence[AnnotatedImage],
    categories: Sequence[str],
    findings: Findings,
    share_max: float,
) -> AnnotatedSet:
    """The set, if enough of it can be used.

    Raises:
        DataError: nothing to find, or more unusable than allowed.
    """
    boxes = sum(len(image.instances) for image in images)
    left_out = findings.images.total(), findings.boxes.total()
    named = len(images) + left_out[0], boxes + left_out[1]
    warnings = findings.lines(name, *named)
    for bad, total, what in zip(left_out, named, ("images", "boxes"), strict=True):
        if bad > share_max * total:
            raise DataError(
                uri,
                f"{bad:,} of {total:,} {what} cannot be used: {'; '.join(warnings)}",
                f"at most {share_max:.1%} (detection.left_out_share_max)",
                "mend the set or raise that share",
            )
    if not boxes:
        raise DataError(uri, f"no box in {len(images):,} images", "boxes to find", f"check {name}")
    empty = sum(not image.instances for image in images)
    if empty:
        warnings.append(f"{name}: {empty:,} of {len(images):,} images have no object: nothing is to be found")
    ordered = tuple(sorted(images, key=lambda image: image.file))
    return AnnotatedSet(name, uri, store, ordered, tuple(sorted(categories)), tuple(warnings))
