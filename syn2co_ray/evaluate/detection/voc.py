"""PASCAL VOC's folder of XML files, one an image (host.robots.ox.ac.uk/pascal/VOC, development kit)."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ...data.record import IMAGE_EXTENSIONS
from ...spec.detection import AnnotatedImagesSpec
from ...spec.errors import DataError
from ...spec.source import ObjectStoreSpec
from ...storage import Store, list_files, open_store, read_bytes
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
        DataError: no XML file, or two of them for one image.
        StorageError: a folder that cannot be read.
    """
    folder = open_store(spec.annotations, options)
    there = _Paths(_ending(folder, ".xml"))
    if not there.whole:
        raise DataError(folder.uri, "no .xml file", "VOC's annotations", "check detection's annotations")
    named = None if spec.image_set is None else _listed(spec.image_set, options)
    chosen = there.all if named is None else _chosen(named, there, findings)
    mask_store = open_store(spec.mask_folder, options) if masks and spec.mask_folder else None
    mask_files = _Paths(_ending(mask_store, ".png") if mask_store else [])

    def read(xml: str) -> tuple[str, VocFile | str, np.ndarray | None]:
        parsed, numbers = parse_voc(read_bytes(folder, xml)), None
        pngs = mask_files.called(_name(xml), there.is_alone(xml))
        if mask_store and len(pngs) == 1 and isinstance(parsed, VocFile):
            numbers = _mask_pixels(read_bytes(mask_store, pngs[0]), parsed)
        return xml, parsed, numbers

    images: list[AnnotatedImage] = []
    xml_of: dict[str, list[str]] = defaultdict(list)
    pictures = _Paths(path for path in files if path.rpartition(".")[2].lower() in IMAGE_EXTENSIONS)
    with ThreadPoolExecutor(THREADS) as pool:
        for xml, parsed, numbers in pool.map(read, chosen):
            if isinstance(parsed, str):
                findings.add("images", f"have an XML file that {parsed}", xml)
                continue
            file = _image_of(xml, parsed.filename, files, pictures, there, findings)
            if file is not None:
                xml_of[file].append(xml)
                images.append(_annotated(file, parsed, numbers, spec.one_based, masks, findings))
    for file, xmls in xml_of.items():
        if len(xmls) > 1:
            got = f"two XML files of one image: {xmls[0]} and {xmls[1]} are both of {file}"
            raise DataError(folder.uri, got, "one each", "remove one, or give each folder its own images")
    return images, sorted({instance.category for image in images for instance in image.instances})


class _Paths:
    """Paths of files by what may name them, without suffix: all of the path, or its last part alone."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.all = sorted(paths)
        self.whole: dict[str, list[str]] = defaultdict(list)
        self.last: dict[str, list[str]] = defaultdict(list)
        for path in self.all:
            self.whole[_name(path)].append(path)
            self.last[PurePosixPath(path).stem].append(path)

    def called(self, name: str, last_alone: bool) -> list[str]:
        """Those whose whole path is `name`; if there is none and `last_alone`, those of its last part."""
        last = self.last.get(name.rpartition("/")[2], []) if last_alone else []
        return self.whole.get(name, last)

    def is_alone(self, path: str) -> bool:
        """Whether no other of these files has the last part of this one."""
        return len(self.last[PurePosixPath(path).stem]) == 1


def _ending(store: Store, suffix: str) -> list[str]:
    return [info.path for info in list_files(store) if info.path.endswith(suffix)]


def _name(path: str) -> str:
    """A path without suffix."""
    folder, slash, last = path.rpartition("/")
    return folder + slash + PurePosixPath(last).stem


def _chosen(names: list[str], there: _Paths, findings: Findings) -> list[str]:
    """The XML files that lines of an image set name: by path, or by a last part that only one has."""
    found = set()
    for name in names:
        xmls = there.called(name, last_alone="/" not in name)
        if len(xmls) == 1:
            found.add(xmls[0])
        elif xmls:
            where = f"{name}: {xmls[0]} or {xmls[1]}"
            findings.add("images", "are in the image set by a name that several XML files have", where)
        else:
            findings.add("images", "are in the image set without an XML file", name)
    return sorted(found)


def _image_of(
    xml: str, filename: str, files: set[str], pictures: _Paths, there: _Paths, findings: Findings
) -> str | None:
    """The image of an XML file, at the same place below its folder or by a name that no other shares."""
    alone, stem = there.is_alone(xml), PurePosixPath(xml).stem
    beside = str(PurePosixPath(xml).parent / filename)
    if beside in files:
        return beside
    # XML files of one name in several folders mostly call their images alike too: that does not tell whose.
    if filename in files and (alone or "/" in filename or PurePosixPath(filename).stem != stem):
        return filename
    found = pictures.called(_name(xml), last_alone=alone)
    if len(found) == 1:
        return found[0]
    if others := pictures.last.get(stem):
        where = f"{xml}: {' or '.join(others[:2])}"
        findings.add("images", "share a name with others and have no file that is theirs alone", where)
    else:
        findings.add("images", "have no file in the folder", f"{filename or stem} of {xml}")
    return None


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
