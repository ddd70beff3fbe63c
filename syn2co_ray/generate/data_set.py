"""A generated data set as files: which shards are there, its manifest and its card.

<into>/
    dataset.json                    what the data set is; written first, a job of other content is refused
    shard-000000-<id>.parquet ...   whole or absent; the id is the hash of what it is to hold
    manifest.json  README.md  _report/contact_sheet.png   written when all shards are there
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.decode import decode_rgb
from ..spec.errors import DataError, Fault, SpecError
from ..spec.generate import GenerateSpec
from ..spec.identity import resolved
from ..storage import Store, delete, exists, list_files, publish_bytes, read_bytes, read_from
from .conditions import PIXELS_MAX
from .shards import METADATA_KEY
from .slots import Conditions, number_of_shards, shard_of

DATASET_FILE, MANIFEST_FILE, CARD_FILE = "dataset.json", "manifest.json", "README.md"
SHEET_FILE = "contact_sheet.png"
REPORT_FOLDER = "_report"
LABELS_SHOWN, IMAGES_SHOWN, SHARDS_READ = 16, 16, 8


def claim(store: Store, job: GenerateSpec, content: str, digest: str) -> None:
    """Say what the prefix is for, or check that it is for the same.

    Two jobs of one content may write it at once: their shards are the same.

    Raises:
        SpecError: the prefix holds another data set, or this one with other weights.
    """
    if not exists(store, DATASET_FILE):
        what = {"name": job.name, "content": content, "weights_sha256": digest, "job": resolved(job)}
        publish_bytes(store, DATASET_FILE, json.dumps(what, indent=1).encode())
    # Read back: another job may have claimed it in the same moment.
    found = json.loads(read_bytes(store, DATASET_FILE))
    if found["content"] != content:
        changed = "its weights differ" if found["weights_sha256"] != digest else "its settings differ"
        raise SpecError(
            [
                Fault(
                    "into",
                    f"{store.uri} holds data set {found['name']} {found['content']}; {changed}",
                    "a new prefix for every data set",
                    "use another prefix, or restore the settings and weights it was begun with",
                )
            ]
        )


def missing_shards(store: Store, job: GenerateSpec, conditions: Conditions, content: str) -> list[int]:
    """Numbers of the shards that are not there."""
    there = {info.path for info in list_files(store, recursive=False, missing_ok=True)}
    numbers = range(number_of_shards(job))
    return [number for number in numbers if shard_of(job, conditions, content, number).file not in there]


def drop_replaced_shards(store: Store, job: GenerateSpec, conditions: Conditions, content: str) -> list[str]:
    """Delete shards that others have taken the place of, once all is there: the last one of a data set that
    was made longer, and those with repeats.

    Raises:
        DataError: the prefix holds shards beyond the images that the job asks for.
    """
    shards = number_of_shards(job)
    expected = {shard_of(job, conditions, content, number).file for number in range(shards)}
    there = [info.path for info in list_files(store, recursive=False, missing_ok=True)]
    others = [name for name in there if name.startswith("shard-") and name not in expected]
    beyond = [name for name in others if int(name.split("-")[1]) >= shards]
    if beyond:
        raise DataError(
            store.uri,
            f"holds {len(beyond)} shards beyond the {job.images} images of the job, such as {beyond[0]}",
            "at least as many images as were made",
            "raise images, or use another prefix",
        )
    for name in others:
        delete(store, name)
    return others


def manifest(store: Store, job: GenerateSpec, conditions: Conditions, content: str) -> dict[str, Any]:
    """Counts of the whole data set, from the shards' own footers.

    Raises:
        DataError: a shard holds other than its slots.
    """
    shards, reasons, labels, per_label = [], Counter[str](), Counter[str](), Counter[str]()
    for number in range(number_of_shards(job)):
        shard = shard_of(job, conditions, content, number)
        rows, about = read_from(store, shard.file, _footer)
        if rows != len(shard.slots):
            expected = f"{len(shard.slots)} images"
            raise DataError(
                store.child(shard.file).uri,
                f"holds {rows} images",
                expected,
                "delete it and run the job again",
            )
        for reject in about["rejects"]:
            reasons[reject["reason"]] += 1
            per_label[reject["label"] or ""] += 1
        labels.update(slot.label for slot in shard.slots if slot.label is not None)
        shards.append({"file": shard.file, "images": rows, "rejected": len(about["rejects"])})
    return {
        "name": job.name,
        "content": content,
        "images": job.images,
        "images_per_label": dict(sorted(labels.items())),
        "rejected": dict(sorted(reasons.items())),
        "rejected_per_label": dict(sorted(per_label.items())),
        "shards": shards,
    }


def _footer(file: pa.NativeFile) -> tuple[int, dict[str, Any]]:
    parquet = pq.ParquetFile(file)
    return parquet.metadata.num_rows, json.loads(parquet.schema_arrow.metadata[METADATA_KEY])


def first_images(store: Store, counts: dict[str, Any]) -> dict[str, list[np.ndarray]]:
    """Label -> a few of its images, decoded, from the first shards: what a contact sheet shows."""
    found: dict[str, list[np.ndarray]] = {}
    for shard in counts["shards"][:SHARDS_READ]:
        table = read_from(store, shard["file"], lambda file: pq.read_table(file, columns=["label", "image"]))
        rows = table.to_pylist()
        for row in rows:
            name = row["label"] or counts["name"]
            if name not in found and len(found) == LABELS_SHOWN:
                continue
            images = found.setdefault(name, [])
            if len(images) < IMAGES_SHOWN:
                images.append(decode_rgb(row["image"], pixels_max=PIXELS_MAX))
        if all(len(images) == IMAGES_SHOWN for images in found.values()):
            break
    return found


def card(job: GenerateSpec, content: str, digest: str, counts: dict[str, Any], about: dict[str, Any]) -> str:
    """The data set's README.md."""
    settings = job.pipeline
    rejected = ", ".join(f"{count} {reason}" for reason, count in counts["rejected"].items()) or "none"
    lines = [
        f"# {job.name}",
        "",
        f"{job.images:,} images made by a diffusion model, in {len(counts['shards']):,} Parquet shards. None "
        "of them is a photograph.",
        "",
        "| | |",
        "|---|---|",
        f"| pipeline | {about['pipeline_class']}, weights sha256 {digest[:16]} |",
        f"| source | {settings.source}{f' at {settings.revision}' if settings.revision else ''} |",
        f"| scheduler, steps | {about['scheduler']}, {settings.steps} |",
        f"| guidance | {settings.guidance if settings.guidance is not None else 'as the pipeline has it'} |",
        f"| labels | {len(counts['images_per_label']) or 'none'} |",
        f"| refused and made again | {rejected} |",
        f"| seed, content | {job.seed}, {content} |",
        f"| made with | syn2co_ray {about['code_version']}, diffusers {about['diffusers']}, "
        f"torch {about['torch']} |",
        *(f"| {name} | {value:.4g} |" for name, value in (counts.get("quality") or {}).items()),
        "",
        f"![contact sheet]({REPORT_FOLDER}/{SHEET_FILE})",
        "",
        "Columns: `key`, `image` (encoded), `label`; and for each image its `seed`, `attempt`, `prompt`,",
        "`class_number`, `source_key`, `guidance`, `strength`, `perceptual_hash`, `contrast`, `similarity`.",
        "",
        "To train on it: `{uri: " + job.into + ", origin: generated, share: 0.5}`.",
        "",
    ]
    return "\n".join(lines)
