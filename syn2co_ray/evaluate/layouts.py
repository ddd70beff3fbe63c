"""Files of weights as others publish them -> tensors by the backbone's own names.

One table says where published checkpoints keep their encoders. A file is read under the row that finds most
of the backbone's names; what was found is said, what does not fit is one error that names it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import timm
from torch import Tensor, nn

from ..spec.errors import CheckpointError
from ..spec.weights import WeightsSpec

Tensors = dict[str, Tensor]
NAMES_SHOWN = 4
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and training frameworks put before every name."""
UNUSED_BUFFER = "num_batches_tracked"
"""Counts training batches; files from before torch 0.4.1 lack it, and evaluation does not look at it."""


NAMES_OF_TORCHVISION = ("conv_proj.weight", "features.0.0.weight")
"""First layers of torchvision's ViT, Swin and ConvNeXt, which have other names in timm."""


@dataclass(frozen=True)
class Layout:
    """Where a file keeps an encoder, after its wrappers are taken off."""

    published_by: str
    online: tuple[str, str]
    """Entry of the file ("" for the file itself) and prefix of the names of the trained encoder."""
    target: tuple[str, str] | None = None
    """The same for its moving average; None where a file holds one encoder."""


LAYOUTS = (
    Layout("plain state dict, timm, torchvision's ResNets", ("", "")),
    Layout("plain, below `state_dict` (timm's trainer)", ("state_dict", ""), ("state_dict_ema", "")),
    Layout("plain, below `model` (DeiT, Swin, MAE)", ("model", ""), ("model_ema", "")),
    Layout("MoCo, MoCo v2, SynCo", ("state_dict", "encoder_q."), ("state_dict", "encoder_k.")),
    Layout("MoCo v3", ("state_dict", "base_encoder."), ("state_dict", "momentum_encoder.")),
    Layout("DINO", ("student", "backbone."), ("teacher", "backbone.")),
    Layout("MoBY, SynBY", ("model", "encoder."), ("model", "encoder_k.")),
    Layout("a checkpoint of this package", ("", "encoder."), ("", "target_encoder.")),
    Layout("a whole network below `backbone.`", ("", "backbone.")),
    Layout("the same below `state_dict` (Lightning)", ("state_dict", "backbone.")),
    Layout("an `encoder.` below `state_dict`", ("state_dict", "encoder.")),
)
"""On GitHub: facebookresearch/moco, moco-v3 and dino, SwinTransformer/Transformer-SSL (MoBY); `main_*.py` of
each writes these names."""


@dataclass(frozen=True)
class Found:
    """Tensors of one encoder, and how they were found."""

    tensors: Tensors
    notes: tuple[str, ...]


def encoder_tensors(content: Mapping[str, Any], backbone: nn.Module, spec: WeightsSpec, uri: str) -> Found:
    """The encoder's tensors by the backbone's names: exactly those it has, but for what the spec allows.

    Args:
        content: what the file holds; tensors by name, also below further entries.
        backbone: says which names and shapes are wanted.
        spec: which encoder, and what may be missing or left over.
        uri: of the file, for messages.

    Raises:
        CheckpointError: no encoder in it, or names or shapes that do not fit, with what to do.
    """
    own = backbone.state_dict()
    _refuse_torchvision(content, own, uri)
    layout, tensors = _best(content, own, spec.encoder, uri)
    notes = [f"layout: {layout.published_by}, {spec.encoder} encoder"]
    tensors = _without_classifier(tensors, own, backbone)
    if set(tensors) != set(own) or any(tensors[name].shape != own[name].shape for name in tensors):
        tensors = _by_timm(tensors, backbone, notes)
    left_out = [name for name in tensors if name not in own and _matches(name, spec.allow_unexpected)]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    missing = [name for name in own if name not in tensors and not name.endswith(UNUSED_BUFFER)]
    random = [name for name in missing if _matches(name, spec.allow_missing)]
    for allowed, words in ((left_out, "left out"), (random, "not in the file, random")):
        if allowed:
            notes.append(f"{words}: {_some(allowed)}")
    _check(tensors, own, [name for name in missing if name not in random], uri)
    return Found({**own, **tensors}, tuple(notes))


def _refuse_torchvision(content: Mapping[str, Any], own: Tensors, uri: str) -> None:
    inside = content.get("state_dict") or content.get("model")
    names = _unwrapped(inside if isinstance(inside, Mapping) else content)
    for name in NAMES_OF_TORCHVISION:
        if name in names and name not in own:
            got = f"{name}: torchvision's own names of a ViT, Swin or ConvNeXt, which are not converted"
            allowed = "timm's names; torchvision's ResNets have the same"
            raise CheckpointError(uri, got, allowed, "take a file of timm's for this backbone")


def _best(
    content: Mapping[str, Any], own: Tensors, encoder: Literal["online", "target"], uri: str
) -> tuple[Layout, Tensors]:
    def found(place: tuple[str, str] | None) -> Tensors:
        entry, prefix = place or ("", "no encoder")
        inside = content.get(entry) if entry else content
        tensors = _unwrapped(inside) if isinstance(inside, Mapping) else {}
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    def hits(layout: Layout) -> int:
        # Judged by the trained encoder: which of two is read must not change what the file is taken for.
        return len(own.keys() & found(layout.online).keys())

    layout = max(LAYOUTS, key=hits)
    if hits(layout) == 0:
        names = list(_unwrapped(content)) or list(content)
        raise CheckpointError(
            uri,
            f"none of the backbone's names such as {next(iter(own))}; it holds {_some(names)}",
            "; ".join(layout.published_by for layout in LAYOUTS),
            "check weights.backbone, or write a state dict of the encoder alone",
        )
    tensors = found(layout.target if encoder == "target" else layout.online)
    if not tensors:
        got = f"one encoder ({layout.published_by}), and weights.encoder asks for its moving average"
        raise CheckpointError(uri, got, "a file with both", "leave weights.encoder out")
    return layout, tensors


def _unwrapped(content: Mapping[str, Any]) -> Tensors:
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    while tensors:
        wrapper = next((w for w in WRAPPERS if all(name.startswith(w) for name in tensors)), None)
        if wrapper is None:
            break
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _without_classifier(tensors: Tensors, own: Tensors, backbone: nn.Module) -> Tensors:
    """Without the layers that were trained on top: MoCo's projector is in their place."""
    classifier = (getattr(backbone, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    heads = tuple(f"{name.partition('.')[0]}." for name in names)
    return {name: t for name, t in tensors.items() if name in own or not name.startswith(heads or "\0")}


def _by_timm(tensors: Tensors, backbone: nn.Module, notes: list[str]) -> Tensors:
    """timm's own conversion of published files of this family: names, and positions of another grid."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    converted = dict(convert(dict(tensors), backbone))
    changed = [n for n, t in converted.items() if n not in tensors or t.shape != tensors[n].shape]
    if changed:
        notes.append(f"converted by timm {timm.__version__}: {_some(changed)}")
    return converted


def _check(tensors: Tensors, own: Tensors, missing: list[str], uri: str) -> None:
    unexpected = [name for name in tensors if name not in own]
    shaped = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in tensors
        if name in own and tensors[name].shape != own[name].shape
    ]
    told = [
        f"{len(names)} {words}: {_some(names)}"
        for names, words in ((missing, "missing"), (unexpected, "unexpected"), (shaped, "of another shape"))
        if names
    ]
    if not told:
        return
    steps = ["check weights.backbone, its options and image_size"]
    steps += [f"or allow it: weights.allow_missing: [{_pattern(missing)}]"] if missing else []
    steps += [f"or leave it out: weights.allow_unexpected: [{_pattern(unexpected)}]"] if unexpected else []
    raise CheckpointError(uri, "; ".join(told), "the tensors of the backbone", "; ".join(steps))


def _pattern(names: list[str]) -> str:
    first = names[0].partition(".")[0]
    return names[0] if names == [first] else f"'{first}.*'" + (", ..." if len(names) > 1 else "")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
