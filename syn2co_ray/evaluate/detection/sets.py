"""Both sets of a detection job: read, checked, their categories compared, leaks counted."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ...spec.detection import AnnotatedImagesSpec, DetectionSpec
from ...spec.errors import DataError
from ...spec.source import ObjectStoreSpec
from ...storage import list_files, open_store, read_bytes
from .annotations import AnnotatedSet, Findings, checked_set
from .coco import read_coco
from .voc import read_voc

NAMES_SHOWN = 4


def read_sets(spec: DetectionSpec, options: ObjectStoreSpec) -> tuple[AnnotatedSet, AnnotatedSet, list[str]]:
    """Training set, evaluation set with its categories numbered as there, and what is to be said of them.

    Raises:
        DataError: a set that cannot be used, or two without a category in common.
        StorageError: a place that cannot be read.
    """
    train = read_set("detection.train", spec.train, spec, options)
    held_out = read_set("detection.eval", spec.eval, spec, options)
    warnings = [*train.warnings, *held_out.warnings, *_about_categories(train, held_out)]
    leaked = images_in_both(train, held_out, spec.reader_threads)
    if leaked:
        words = (
            f"{leaked:,} of {len(held_out.images):,} images of detection.eval also stand in detection.train"
        )
        warnings.append(words)
    # The training set's first: numbers mean the same in both.
    further = [name for name in held_out.categories if name not in train.categories]
    return train, replace(held_out, categories=(*train.categories, *further)), warnings


def read_set(
    name: str, images: AnnotatedImagesSpec, spec: DetectionSpec, options: ObjectStoreSpec
) -> AnnotatedSet:
    """One set, whatever its format.

    Args:
        name: dotted key of its section.
        images: where it is.
        spec: whether masks are wanted, and how much may be unusable.
        options: how to reach the store.

    Raises:
        DataError: it cannot be used.
        StorageError: it cannot be read.
    """
    store = open_store(images.images, options)
    files, findings = {info.path for info in list_files(store)}, Findings()
    if images.resolved_format == "coco":
        folder, _, file = images.annotations.rpartition("/")
        place = open_store(folder or ("/" if images.annotations.startswith("/") else "."), options)
        data = read_bytes(place, file)
        found, categories = read_coco(data, images.annotations, files, spec.masks, findings)
    else:
        found, categories = read_voc(images, options, files, spec.masks, findings)
    uri = images.annotations
    return checked_set(name, uri, store, found, categories, findings, spec.left_out_share_max)


def images_in_both(train: AnnotatedSet, held_out: AnnotatedSet, threads: int) -> int:
    """How many evaluation images also stand in the training set, byte for byte.

    Only files whose size occurs in both are read.
    """
    sizes = [_by_size(each) for each in (train, held_out)]
    common = sizes[0].keys() & sizes[1].keys()

    def digests(each: AnnotatedSet, files: list[str]) -> Counter[str]:
        def digest(file: str) -> str:
            return hashlib.sha256(read_bytes(each.store, file)).hexdigest()

        with ThreadPoolExecutor(threads) as pool:
            return Counter(pool.map(digest, files))

    learned, asked = (
        digests(each, [file for size in sorted(common) for file in by_size[size]])
        for each, by_size in zip((train, held_out), sizes, strict=True)
    )
    return sum(count for digest, count in asked.items() if digest in learned)


def _by_size(images: AnnotatedSet) -> dict[int, list[str]]:
    bytes_of = {info.path: info.size_bytes for info in list_files(images.store)}
    found = defaultdict(list)
    for image in images.images:
        found[bytes_of[image.file]].append(image.file)
    return found


def _about_categories(train: AnnotatedSet, held_out: AnnotatedSet) -> list[str]:
    known = {instance.category for image in train.images for instance in image.instances}
    asked = Counter(instance.category for image in held_out.images for instance in image.instances)
    if not known & asked.keys():
        raise DataError(
            "detection.eval",
            f"its categories are {_some(sorted(asked))}, those of detection.train {_some(sorted(known))}",
            "at least one in common",
            "name them alike in both sets",
        )
    if unknown := sorted(asked.keys() - known):
        count = sum(asked[name] for name in unknown)
        return [
            f"{count:,} of {asked.total():,} boxes of detection.eval are of categories that detection.train "
            f"has no box of ({_some(unknown)}): they count as missed"
        ]
    return []


def progress_lines(log: Callable[[str], None], sets: Sequence[AnnotatedSet]) -> None:
    """Say what was read."""
    for each in sets:
        words = f"{len(each.images):,} images, {each.boxes:,} boxes of {len(each.categories)} categories"
        log(f"{each.name}: {words}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
