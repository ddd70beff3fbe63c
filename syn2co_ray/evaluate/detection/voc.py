"""PASCAL VOC's folder of XML files, one an image (host.robots.ox.ac.uk/pascal/VOC, development kit)."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ...spec.detection import AnnotatedImagesSpec
from ...spec.errors import DataError
from ...spec.source import ObjectStoreSpec
from ...storage import list_files, open_store, read_bytes
from .annotations import AnnotatedImage, Box, Findings, Instance, usable_box
from .masks import Mask, run_lengths

THREADS = 8
EDGES = ("xmin", "ymin", "xmax", "ymax")
_DECLARATION = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)


@dataclass(frozen=True)
class VocObject:
    """An object as its file says, edges not yet judged."""

    name: str
    edges: list[float]
    difficult: bool


@dataclass(frozen=True)
class VocFile:
    """One XML file."""

    filename: str
    width: int
    height: int
    objects: list[VocObject]


def read_voc(
    spec: AnnotatedImagesSpec, options: ObjectStoreSpec, files: set[str], masks: bool, findings: Findings
) -> tuple[list[AnnotatedImage], list[str]]:
    """Usable images and the names of all categories they have.

    Args:
        spec: where the XML files are, and which of them count.
        options: how to reach the store.
        files: paths of the images that are there.
        masks: whether masks are wanted; an object without a usable one is then ignored.
        findings: what is left out or changed.

    Raises:
        DataError: no XML file, or one image for two of them.
        StorageError: a folder that cannot be read.
    """
    folder = open_store(spec.annotations, options)
    there = {PurePosixPath(i.path).stem: i.path for i in list_files(folder) if i.path.endswith(".xml")}
    if not there:
        raise DataError(folder.uri, "no .xml file", "VOC's annotations", "check detection's annotations")
    stems = sorted(there) if spec.image_set is None else _listed(spec.image_set, options)
    known = [stem for stem in stems if stem in there]
    for stem in stems:
        if stem not in there:
            findings.add("images", "are in the image set without an XML file", stem)
    mask_store = open_store(spec.mask_folder, options) if masks and spec.mask_folder else None
    mask_files = {info.path for info in list_files(mask_store)} if mask_store else set()

    def read(stem: str) -> tuple[str, VocFile | str, np.ndarray | None]:
        parsed = parse_voc(read_bytes(folder, there[stem]))
        numbers, png = None, f"{stem}.png"
        if mask_store and png in mask_files and isinstance(parsed, VocFile):
            numbers = _mask_pixels(read_bytes(mask_store, png), parsed)
        return stem, parsed, numbers

    images: list[AnnotatedImage] = []
    by_stem = {PurePosixPath(path).stem: path for path in sorted(files, reverse=True)}
    with ThreadPoolExecutor(THREADS) as pool:
        for stem, parsed, numbers in pool.map(read, known):
            if isinstance(parsed, str):
                findings.add("images", f"have an XML file that {parsed}", there[stem])
                continue
            file = parsed.filename if parsed.filename in files else by_stem.get(stem)
            if file is None:
                findings.add("images", "have no file in the folder", parsed.filename or stem)
                continue
            images.append(_annotated(file, parsed, numbers, spec.one_based, masks, findings))
    if len({image.file for image in images}) < len(images):
        raise DataError(folder.uri, "two XML files of one image", "one each", "remove one")
    return images, sorted({instance.category for image in images for instance in image.instances})


def parse_voc(data: bytes) -> VocFile | str:
    """What an XML file says, or in words what is wrong with it."""
    # Entities could grow without bound; VOC's files have none.
    if _DECLARATION.search(data):
        return "declares a document type or entities"
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        return f"is no XML ({error.msg.partition(':')[0]})"
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    if not (1 <= width < float("inf") and 1 <= height < float("inf")):
        return "does not say the size of the image"
    objects = [
        VocObject(
            (entry.findtext("name") or "").strip(),
            [_number(entry.findtext(f"bndbox/{edge}")) for edge in EDGES],
            (entry.findtext("difficult") or "0").strip() == "1",
        )
        for entry in root.iter("object")
    ]
    return VocFile((root.findtext("filename") or "").strip(), int(width), int(height), objects)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _listed(uri: str, options: ObjectStoreSpec) -> list[str]:
    """First word of each line: some lists say after it whether a category is there."""
    place, _, name = uri.rpartition("/")
    text = read_bytes(open_store(place or ("/" if uri.startswith("/") else "."), options), name)
    lines = text.decode("utf-8", "replace").splitlines()
    return sorted({line.split()[0] for line in lines if line.strip()})


def _mask_pixels(encoded: bytes, parsed: VocFile) -> np.ndarray | None:
    """(height, width) numbers of objects; None for what is no PNG of the image's size."""
    try:
        with Image.open(io.BytesIO(encoded), formats=["PNG"]) as image:
            # Before its pixels are unpacked: a small file may claim any size.
            if image.size != (parsed.width, parsed.height):
                return None
            numbers = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return numbers if numbers.ndim == 2 else None


def _annotated(
    file: str, parsed: VocFile, numbers: np.ndarray | None, one_based: bool, masks: bool, findings: Findings
) -> AnnotatedImage:
    kept = []
    for number, found in enumerate(parsed.objects, start=1):
        where = f"object {number} of {file}"
        if not found.name:
            findings.add("boxes", "have no name", where)
            continue
        left, upper, right, lower = found.edges
        # The devkit's last pixel belongs to the box: the edge, counted from 0, is where the next one begins.
        edges = [left - 1, upper - 1, right, lower] if one_based else found.edges
        box = usable_box(edges, parsed.width, parsed.height, findings, where)
        if box is None:
            continue
        mask = _mask(numbers, number, parsed) if masks else None
        unmasked = masks and mask is None
        if unmasked:
            findings.add("changed", "have no usable mask and are ignored", where)
        ignored = found.difficult or unmasked
        kept.append(Instance(found.name, box, _area(box, mask), ignored, unmasked, mask))
    return AnnotatedImage(file, parsed.width, parsed.height, tuple(kept))


def _mask(numbers: np.ndarray | None, number: int, parsed: VocFile) -> Mask | None:
    if numbers is None:
        return None
    pixels = numbers == number
    return run_lengths(pixels) if pixels.any() else None


def _area(box: Box, mask: Mask | None) -> float:
    if isinstance(mask, dict):
        return float(sum(mask["counts"][1::2]))
    return (box[2] - box[0]) * (box[3] - box[1])
