"""COCO's JSON of images, annotations and categories (cocodataset.org, format-data)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from ...spec.errors import DataError
from .annotations import AnnotatedImage, Findings, Instance, is_finite, usable_box
from .masks import usable_mask

SECTIONS = ("images", "annotations", "categories")


def read_coco(
    data: bytes, uri: str, files: set[str], masks: bool, findings: Findings
) -> tuple[list[AnnotatedImage], list[str]]:
    """Usable images and the names of all categories.

    Args:
        data: the JSON file.
        uri: of it, for messages.
        files: paths of the images that are there.
        masks: whether masks are wanted; an object without a usable one is then ignored.
        findings: what is left out or changed.

    Raises:
        DataError: no such file, or images and categories that cannot be told apart.
    """
    content = _content(data, uri)
    names = _categories(content["categories"], uri)
    of_image = defaultdict(list)
    ids = Counter(_id(image, "id") for image in content["images"])
    if doubled := [number for number, count in ids.items() if count > 1]:
        raise DataError(uri, f"{len(doubled)} ids of images are used twice, such as {doubled[0]}", "one each")
    for annotation in content["annotations"]:
        if (number := _id(annotation, "image_id")) in ids:
            of_image[number].append(annotation)
        else:
            where = f"annotation {annotation.get('id')}"
            findings.add("boxes", "are of an image that the file does not name", where)
    images = []
    for entry in content["images"]:
        file = str(entry.get("file_name"))
        width, height = (_side(entry.get(side)) for side in ("width", "height"))
        if file not in files:
            findings.add("images", "have no file in the folder", file)
        elif not (width and height):
            findings.add("images", "have no width and height", file)
        else:
            found = [
                _instance(annotation, names, width, height, masks, findings, file)
                for annotation in of_image[_id(entry, "id")]
            ]
            kept = tuple(instance for instance in found if instance is not None)
            images.append(AnnotatedImage(file, width, height, kept))
    return images, list(names.values())


def _id(entry: dict[str, Any], name: str) -> int | str | None:
    value = entry.get(name)
    return value if isinstance(value, int | str) else None


def _side(value: Any) -> int:
    """Pixels; 0 for what is no length."""
    return value if type(value) is int and value > 0 else 0


def _content(data: bytes, uri: str) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(uri, f"no JSON: {error}", "COCO's annotations", "fetch it again") from None
    lists = isinstance(content, dict) and all(
        isinstance(content.get(name), list) and all(isinstance(entry, dict) for entry in content[name])
        for name in SECTIONS
    )
    if not lists:
        got = f"not the lists {', '.join(SECTIONS)}"
        raise DataError(uri, got, "COCO's annotations", "check detection's annotations and format")
    return content


def _categories(entries: list[dict[str, Any]], uri: str) -> dict[Any, str]:
    names = {_id(entry, "id"): str(entry.get("name")) for entry in entries}
    if len(names) < len(entries) or len(set(names.values())) < len(entries):
        raise DataError(uri, "two categories of one id or name", "one each", "mend the list of categories")
    return names


def _instance(
    annotation: dict[str, Any],
    names: dict[Any, str],
    width: int,
    height: int,
    masks: bool,
    findings: Findings,
    file: str,
) -> Instance | None:
    where = f"annotation {annotation.get('id')} of {file}"
    category = names.get(_id(annotation, "category_id"))
    if category is None:
        findings.add("boxes", "are of a category that the file does not name", where)
        return None
    box = annotation.get("bbox")
    edges = list(box) if isinstance(box, list) else []
    if len(edges) == 4 and all(is_finite(edge) for edge in edges):
        edges = [edges[0], edges[1], edges[0] + edges[2], edges[1] + edges[3]]
    inside = usable_box(edges, width, height, findings, where)
    if inside is None:
        return None
    mask = usable_mask(annotation.get("segmentation"), width, height) if masks else None
    crowd = bool(annotation.get("iscrowd"))
    unmasked = masks and mask is None
    if unmasked:
        findings.add("changed", "have no usable mask and are ignored", where)
    area = annotation.get("area")
    whole = (inside[2] - inside[0]) * (inside[3] - inside[1])
    ignored = crowd or unmasked or bool(annotation.get("ignore"))
    if not is_finite(area) or area <= 0:
        area = whole
    return Instance(category, inside, float(area), ignored, crowd or unmasked, mask)
