"""The backbone that section `weights` of a job asks for, ready to be measured or exported."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import safetensors
import torch
from safetensors.torch import load as load_tensors
from torch import nn

from ..methods.draws import seeded_initialisation
from ..methods.encoders import build_encoder
from ..spec.errors import CheckpointError, first_line
from ..spec.job import PretrainSpec
from ..spec.load import build_spec
from ..spec.method import BackboneSpec
from ..spec.source import ObjectStoreSpec
from ..spec.weights import WeightsSpec
from ..storage import Store, open_store, read_bytes
from ..train.checkpoint_files import METHOD, STATE, complete_steps, read_checkpoint
from .layouts import encoder_tensors

IMAGE_SIZE = 224
SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone in eval mode on the CPU, and what is known of it."""

    network: nn.Module
    """(n, 3, S, S) normalised float32 -> (n, num_features)."""
    architecture: BackboneSpec
    image_size: int
    """S, height and width in pixels."""
    digest: str
    """SHA-256 (hex) of architecture, image size and tensors: the same network has it from any file."""
    source: str
    """Where the weights are from, in words."""
    notes: tuple[str, ...] = ()
    """What was found, converted or left random."""
    run: Store | None = None
    """Folder of the run they are from."""
    step: int | None = None
    encoder: Literal["online", "target"] = "online"
    job: PretrainSpec | None = None
    """What that run was."""


def load_backbone(spec: WeightsSpec, options: ObjectStoreSpec) -> LoadedBackbone:
    """Build the backbone and put its weights in.

    Args:
        spec: section `weights`.
        options: how to reach the store that holds them.

    Raises:
        CheckpointError: no such checkpoint, a damaged file, or tensors that do not fit.
        SpecError: a backbone that cannot be built.
        StorageError: the place cannot be read.
    """
    if spec.run is not None:
        return _of_run(spec.run, spec, options)
    assert spec.backbone is not None
    architecture = BackboneSpec(
        backbone=spec.backbone,
        patch_size=spec.patch_size,
        backbone_options=spec.backbone_options,
        small_image_stem=spec.small_image_stem,
        drop_path_online=0.0,
    )
    size, seed = spec.image_size or IMAGE_SIZE, spec.random_seed
    network = _built(architecture, size, seed or 0)
    if spec.file is None:
        return _loaded(network, architecture, size, f"random, seed {seed}")
    folder, _, name = spec.file.rpartition("/")
    store = open_store(folder or ("/" if spec.file.startswith("/") else "."), options)
    uri = store.child(name).uri
    found = encoder_tensors(_content(read_bytes(store, name), uri), network, spec, uri)
    network.load_state_dict(found.tensors)
    return _loaded(network, architecture, size, uri, notes=found.notes)


def random_backbone(like: LoadedBackbone, seed: int) -> LoadedBackbone:
    """The same architecture with the weights that a run of this seed begins with."""
    network = _built(like.architecture, like.image_size, seed)
    return _loaded(network, like.architecture, like.image_size, f"random, seed {seed}")


def _of_run(uri: str, spec: WeightsSpec, options: ObjectStoreSpec) -> LoadedBackbone:
    run = open_store(uri, options)
    step, files, damaged = _checkpoint(run, spec.step)
    job = build_spec(json.loads(files[STATE])["spec"], file=run.uri)
    if not isinstance(job, PretrainSpec):
        raise CheckpointError(run.uri, f"a run of kind {job.kind}", "a pretrain run", "mend weights.run")
    architecture = BackboneSpec.model_validate(
        {name: getattr(job.method, name) for name in BackboneSpec.model_fields} | {"drop_path_online": 0.0}
    )
    size = spec.image_size or job.augment.image_size
    network = _built(architecture, size, job.seed)
    found = encoder_tensors(load_tensors(files[METHOD]), network, spec, run.uri)
    network.load_state_dict(found.tensors)
    source = f"step {step} of {run.uri}, {spec.encoder} encoder"
    notes = damaged + found.notes
    return _loaded(
        network, architecture, size, source, notes=notes, run=run, step=step, encoder=spec.encoder, job=job
    )


def _checkpoint(run: Store, wanted: int | None) -> tuple[int, dict[str, bytes], tuple[str, ...]]:
    """Step and files of the checkpoint asked for, else of the newest whole one; what is wrong with newer."""
    steps = complete_steps(run)
    damaged: list[str] = []
    for step in reversed(steps) if wanted is None else {wanted} & set(steps):
        try:
            return step, read_checkpoint(run, step), tuple(damaged)
        except CheckpointError as error:
            damaged.append(f"{error.fault.where}: {error.fault.got}")
    got = "no whole checkpoint" + ("" if wanted is None else f" of step {wanted}")
    got += f" ({'; '.join(damaged)})" if damaged else ""
    allowed = f"one of the steps {', '.join(map(str, steps))}" if steps else "the folder of a run"
    raise CheckpointError(run.uri, got, allowed, "mend weights.run or weights.step")


def _built(architecture: BackboneSpec, image_size: int, seed: int) -> nn.Module:
    with seeded_initialisation(seed, "encoder"):
        return build_encoder(architecture, image_size, 0.0)


def _loaded(
    network: nn.Module, architecture: BackboneSpec, image_size: int, source: str, **known: Any
) -> LoadedBackbone:
    network.eval().requires_grad_(False)
    digest = weights_digest(network, architecture, image_size)
    return LoadedBackbone(network, architecture, image_size, digest, source, **known)


def weights_digest(network: nn.Module, architecture: BackboneSpec, image_size: int) -> str:
    """SHA-256 (hex) over what a backbone computes: its architecture, and name, type, shape, bytes of each
    tensor."""
    described = {**architecture.model_dump(mode="json"), "image_size": image_size}
    whole = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        whole.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()


def _content(data: bytes, uri: str) -> Mapping[str, Any]:
    """What a file of weights holds; a torch file is read without running any code of it."""
    if uri.endswith(SAFETENSORS):
        try:
            return load_tensors(data)
        except safetensors.SafetensorError as error:
            raise CheckpointError(
                uri, f"no safetensors file ({error})", "a whole file", "write it again"
            ) from None
    # DINO and MAE keep their command line's words, which are inert, beside the tensors.
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            uri,
            f"more than tensors and plain values, or no torch file ({first_line(error)})",
            "a state dict",
            "where you trust the file, save its state dict alone, best as .safetensors",
        ) from None
    except (RuntimeError, EOFError, ValueError) as error:
        words = (str(error).splitlines() or ["empty"])[0]
        raise CheckpointError(
            uri, f"no whole torch file ({words})", "a state dict", "fetch it again"
        ) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(uri, f"a {type(content).__name__}", "a state dict", "save its state dict")
    return content
