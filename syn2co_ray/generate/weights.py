"""Where a pipeline's files come from, and the digest that names them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..data.place import PROBE_MARK
from ..spec.errors import Fault, SpecError, StorageError, first_line
from ..spec.generate import PipelineSpec
from ..spec.source import ObjectStoreSpec
from ..storage import list_files, open_store, read_bytes

INDEX_FILE = "model_index.json"
SHIPPED = "package:"
DIGEST_BLOCK_BYTES = 1 << 20


def local_pipeline(pipeline: PipelineSpec, options: ObjectStoreSpec) -> Path:
    """A folder on this machine with the pipeline's files; fetched if it is elsewhere.

    Raises:
        SpecError: no such folder or name, a hub name without a revision, no model_index.json.
        StorageError: the prefix cannot be listed or read.
    """
    source = pipeline.source
    if source.startswith(SHIPPED):
        folder = _shipped(source.removeprefix(SHIPPED))
    elif "://" in source:
        folder = _fetched(source, options)
    elif Path(source).is_dir():
        folder = Path(source)
    elif source.count("/") == 1 and not source.startswith((".", "/")):
        folder = _from_hub(source, pipeline.revision)
    else:
        raise _fault(f"{source}: no such folder", "a folder, a prefix such as s3://bucket/x, or a hub name")
    if not (folder / INDEX_FILE).is_file():
        raise _fault(f"{source} holds no {INDEX_FILE}", "a pipeline as `save_pretrained` writes it")
    return folder


def local_lora(pipeline: PipelineSpec, options: ObjectStoreSpec) -> Path | None:
    """The file with the LoRA weights, fetched to this machine if need be; None where none are asked for.

    Raises:
        SpecError: no such folder, or not one .safetensors file in it.
        StorageError: the prefix cannot be listed or read.
    """
    if pipeline.lora is None:
        return None
    folder = _fetched(pipeline.lora, options) if "://" in pipeline.lora else Path(pipeline.lora)
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        got = (
            f"{pipeline.lora}: {len(found)} .safetensors files"
            if folder.is_dir()
            else f"{folder}: no such folder"
        )
        step = "mend the path; weights on a hub are to be copied to a folder or prefix first"
        raise SpecError([Fault("pipeline.lora", got, "a folder or prefix with one .safetensors file", step)])
    return found[0]


def digest_of_all(pipeline: PipelineSpec, options: ObjectStoreSpec, folder: Path) -> str:
    """Digest of a pipeline's files, and of its LoRA weights where it has some."""
    lora = local_lora(pipeline, options)
    if lora is None:
        return digest_of(folder)
    return hashlib.sha256(f"{digest_of(folder)} {_digest_of_file(lora)}".encode()).hexdigest()


def _shipped(name: str) -> Path:
    """A pipeline that came with this package."""
    there = Path(__file__).with_name("shipped")
    names = sorted(path.parent.name for path in there.glob(f"*/{INDEX_FILE}"))
    if name not in names:
        raise _fault(f"{SHIPPED}{name}: not shipped", ", ".join(f"{SHIPPED}{known}" for known in names))
    return there / name


def digest_of(folder: Path) -> str:
    """SHA-256 (hex) over names and contents of all files of a pipeline; marks of a probe are none of it."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts):
        if path.name.startswith(PROBE_MARK):
            continue
        whole.update(f"{path.relative_to(folder).as_posix()} {_digest_of_file(path)}\n".encode())
    return whole.hexdigest()


def _digest_of_file(path: Path) -> str:
    part = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(DIGEST_BLOCK_BYTES):
            part.update(block)
    return part.hexdigest()


def _fetched(uri: str, options: ObjectStoreSpec) -> Path:
    """A copy of a prefix in this machine's temporary folder, used again while the prefix stays the same.

    The copy is named by what the listing says, times included, so files that were replaced are fetched again;
    where a store gives no times, all are.
    """
    store = open_store(uri, options)
    files = sorted(list_files(store), key=lambda info: info.path)
    dated = all(info.modified_ns is not None for info in files)
    listed = json.dumps([uri, *([info.path, info.size_bytes, info.modified_ns] for info in files)])
    name = hashlib.sha256(listed.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / "syn2co_ray_pipelines" / name
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        for info in files:
            target = folder / info.path
            if dated and target.is_file() and target.stat().st_size == info.size_bytes:
                continue
            data = read_bytes(store, info.path)
            partial = target.with_name(target.name + ".partial")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(data)
                partial.replace(target)
            except OSError as error:
                step = "make room on this node, or point TMPDIR to a larger disk"
                got = f"a copy of {uri} cannot be written: {first_line(error)}"
                raise StorageError(str(target), got, "", step) from None
    return folder


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this machine at a time: a node's actors start together, and one fetches for all."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _from_hub(name: str, revision: str | None) -> Path:
    if revision is None:
        step = "add pipeline.revision: the 40 digits of its commit"
        raise SpecError([Fault("pipeline.revision", f"missing for hub name {name}", next_step=step)])
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]
            )
        )
    except Exception as error:
        words = f"{name} at {revision[:12]}: {type(error).__name__}: {first_line(error)}"
        raise _fault(words, "a folder, or a name the hub has") from None


def pipeline_class_name(folder: Path) -> str:
    """What model_index.json says the pipeline is."""
    return str(json.loads((folder / INDEX_FILE).read_text()).get("_class_name"))


def _fault(got: str, allowed: str) -> SpecError:
    return SpecError([Fault("pipeline.source", got, allowed, "mend the path or the name")])
