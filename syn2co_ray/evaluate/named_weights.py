"""Which weights a place holds: a run of ours, an exported timm folder, or one file."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import ValidationError

from ..spec.errors import CheckpointError, Fault, SpecError
from ..spec.source import ObjectStoreSpec
from ..spec.weights import WeightsSpec
from ..storage import Store, exists, open_store, read_bytes
from ..storage.run_layout import SPEC_FILE

CONFIG, TENSORS = "config.json", "model.safetensors"
FILE_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")


def weights_at(
    uri: str,
    options: ObjectStoreSpec,
    *,
    backbone: str | None = None,
    image_size: int | None = None,
    step: int | None = None,
    encoder: Literal["online", "target"] = "online",
) -> WeightsSpec:
    """Section `weights` for what is at `uri`; nothing but a timm folder's config.json is read.

    Args:
        uri: folder of a run, folder that `kind: export` wrote (or its `timm/`), or a file of tensors.
        options: how its store is reached.
        backbone: timm model name; for a file, and only for one.
        image_size: height and width in pixels of what the network sees; its own when left out.
        step: of a run's checkpoint; the newest whole one when left out.
        encoder: of a run, or of a file that holds both.

    Raises:
        SpecError: a file without `backbone`, or words that do not go with what is there.
        CheckpointError: neither of them is there, or a config.json that cannot be followed.
        StorageError: the place cannot be read.
    """
    store = open_store(uri, options)
    if uri.endswith(FILE_ENDINGS):
        _refuse({"--step": step is not None}, "a file of weights")
        if backbone is None:
            raise SpecError(
                [Fault("--backbone", f"missing, and {uri} is a file", "a timm model name", "add it")]
            )
        # Absolute: replicas have working directories of their own.
        return WeightsSpec(file=store.uri, backbone=backbone, image_size=image_size, encoder=encoder)
    _refuse({"--backbone": backbone is not None}, "a folder, which says so itself")
    for folder in (store, store.child("timm")):
        if exists(folder, CONFIG):
            _refuse({"--step": step is not None, "--encoder": encoder != "online"}, "an exported folder")
            return _of_timm(folder, image_size)
    if not exists(store, SPEC_FILE):
        raise CheckpointError(
            store.uri,
            f"neither {SPEC_FILE} of a run nor {CONFIG} of an exported network in it",
            "the folder of a run, a timm folder, or a file with --backbone",
            "mend the URI",
        )
    return WeightsSpec(run=store.uri, image_size=image_size, step=step, encoder=encoder)


def _of_timm(folder: Store, image_size: int | None) -> WeightsSpec:
    uri = folder.child(CONFIG).uri
    config = _read_config(folder)
    try:
        _check_normalisation(config, uri)
        return _followed(config, folder.child(TENSORS).uri, image_size)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        got = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (AttributeError, TypeError, ValueError) as error:
        got = f"no config of timm's ({type(error).__name__}: {error})"
    step = "name the file itself, with --backbone, or export it again"
    raise CheckpointError(uri, got, "numbers, words or true and false in model_args", step)


def _described(config: dict[str, Any]) -> dict[str, Any]:
    """What images the network wants; older files say it at the top."""
    return config.get("pretrained_cfg") or config


def _check_normalisation(config: dict[str, Any], uri: str) -> None:
    # It brings torch, which wrong options need not wait for.
    from ..methods.normalise import MEAN, STD

    for name, ours in (("mean", MEAN), ("std", STD)):
        theirs = _described(config).get(name) or list(ours)
        if any(abs(a - b) > 1e-3 for a, b in zip(theirs, ours, strict=True)):
            place = f"pretrained_cfg.{name}" if config.get("pretrained_cfg") else name
            step = "this network wants other pixels than are made here: none of ours does"
            raise CheckpointError(uri, f"{place} {theirs}", str(list(ours)), step)


def _followed(config: dict[str, Any], tensors: str, image_size: int | None) -> WeightsSpec:
    arguments = dict(config.get("model_args") or {})
    size = arguments.pop("img_size", None) or (_described(config).get("input_size") or [None])[-1]
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    return WeightsSpec.model_validate(
        {
            "file": tensors,
            "backbone": config["architecture"],
            "image_size": image_size or size,
            "patch_size": arguments.pop("patch_size", None),
            "backbone_options": arguments,
        }
    )


def _read_config(folder: Store) -> dict[str, Any]:
    try:
        config = json.loads(read_bytes(folder, CONFIG))
        if isinstance(config["architecture"], str):
            return config
        got = f"architecture {config['architecture']!r}"
    except (ValueError, KeyError, TypeError) as error:
        got = f"no config of timm's ({type(error).__name__}: {error})"
    raise CheckpointError(
        folder.child(CONFIG).uri, got, "a JSON object with `architecture`", "export it again"
    )


def _refuse(given: dict[str, bool], place: str) -> None:
    faults = [
        Fault(option, "given", f"without it: {place}", "leave it out")
        for option, is_given in given.items()
        if is_given
    ]
    if faults:
        raise SpecError(faults)
