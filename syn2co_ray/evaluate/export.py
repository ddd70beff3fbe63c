"""A backbone in the forms that others load, each compared with the source by a forward pass.

    timm/           config.json, model.safetensors: `timm.create_model("local-dir:timm", pretrained=True)`
    torchvision/    NAME.safetensors: `torchvision.models.NAME()` with `fc = torch.nn.Identity()`
    onnx/           model.onnx: input `images`, output `features`, any batch size
    torch_export/   model.pt2: `torch.export.load(...).module()`, any batch size

All take normalised float32 images (n, 3, S, S) and give features (n, num_features). There is no TorchScript:
torch deprecates it in favour of torch.export. Every form is written from timm's own module, without the
layers that training puts in, and read back with the reader its users have.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..augment.eval_view import RESIZE_RATIO, SMALL_VIEW_PIXELS
from ..methods.backbones import num_features, timm_backbone
from ..methods.draws import seeded_initialisation
from ..methods.encoders import use_small_image_stem
from ..methods.normalise import MEAN, STD
from ..spec.errors import Fault, SpecError, Syn2coError
from ..spec.export import ExportFormat
from .weights import LoadedBackbone

Features = Callable[[Tensor], Tensor]
"""Normalised images (n, 3, S, S) float32 -> features (n, num_features)."""

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
BATCHES = (1, 3)
"""Images of the forward passes that compare a form with its source; it is traced with another number."""
TRACED_IMAGES = 2


@dataclass(frozen=True)
class Verified:
    """How far an exported form is from its source."""

    form: ExportFormat
    difference_max: float
    """Largest absolute difference of a feature."""
    feature_max: float
    """Largest absolute feature of the source."""

    @property
    def error(self) -> float:
        """Largest difference as part of the largest feature."""
        return self.difference_max / self.feature_max if self.feature_max else self.difference_max


def check_forms(forms: tuple[ExportFormat, ...], source: LoadedBackbone) -> None:
    """Refuse forms that cannot be written, all at once, before the first one is.

    Raises:
        SpecError: torchvision has no such network; packages are not installed; a stem that a form has no
            name for.
    """
    faults = []
    for number, form in enumerate(forms):
        where, architecture = f"formats.{number}", source.architecture
        if form in ("timm", "torchvision") and architecture.small_image_stem:
            got = f"{form}, and the backbone has small_image_stem, which it has no name for"
            faults.append(Fault(where, got, "onnx, torch_export", "leave it out"))
        elif form == "torchvision" and (why := _not_torchvision(source)):
            faults.append(Fault(where, f"torchvision: {why}", "timm, onnx, torch_export", "leave it out"))
        missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
        if form == "onnx" and missing:
            step = "pip install 'syn2co_ray[export]'"
            faults.append(Fault(where, f"onnx, without {', '.join(missing)}", "with extra `export`", step))
    if faults:
        raise SpecError(faults)


def write_form(form: ExportFormat, source: LoadedBackbone, folder: Path) -> None:
    """Write one form into an empty local folder."""
    folder.mkdir(parents=True)
    network = plain_network(source)
    with _quiet():
        _WRITERS[form](source, network, folder)


def verify(form: ExportFormat, source: LoadedBackbone, folder: Path, error_max: float) -> Verified:
    """Read a form back and compare its features of random images with the source's.

    Raises:
        Syn2coError: they differ by more than `error_max` of the largest feature.
    """
    differences, sizes = [], []
    with _quiet(), torch.inference_mode():
        features = _READERS[form](source, folder)
        for number in BATCHES:
            generator = torch.Generator().manual_seed(number)
            images = torch.randn(number, 3, source.image_size, source.image_size, generator=generator)
            expected, given = source.network(images), features(images)
            if given.shape != expected.shape:
                raise _differs(form, f"features of shape {tuple(given.shape)}", str(tuple(expected.shape)))
            differences.append((given - expected).abs().max())
            sizes.append(expected.abs().max())
    # torch's maximum, unlike Python's, is no number where one of them is none.
    difference = float(torch.stack(differences).max())
    found = Verified(form, difference, float(torch.stack(sizes).max()))
    if not found.error <= error_max:
        got = f"features that differ by up to {difference:.3g}, {found.error:.3g} of the largest"
        raise _differs(form, got, f"at most {error_max:g} of it")
    return found


def plain_network(source: LoadedBackbone) -> nn.Module:
    """The source as timm builds it, without the layers that training replaces, in eval mode."""
    made = source.architecture
    with seeded_initialisation(0, "encoder"):
        network = timm_backbone(made.backbone, source.image_size, made.patch_size, 0.0, made.backbone_options)
        if made.small_image_stem:
            use_small_image_stem(network, made.backbone)
    network.load_state_dict(source.network.state_dict())
    return network.eval().requires_grad_(False)


def timm_config(source: LoadedBackbone, network: nn.Module) -> dict[str, Any]:
    """config.json: how timm builds the network again, and what images it wants."""
    made, size, small = source.architecture, source.image_size, source.image_size < SMALL_VIEW_PIXELS
    known = getattr(network, "pretrained_cfg", {})
    arguments: dict[str, Any] = dict(made.backbone_options)
    if network.sized:
        arguments["img_size"] = size
    if made.patch_size is not None:
        arguments["patch_size"] = made.patch_size
    return {
        "architecture": made.backbone.partition(".")[0],
        "num_classes": 0,
        "num_features": num_features(source.network),
        "model_args": arguments,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, size, size],
            "fixed_input_size": network.sized,
            "interpolation": "bilinear",
            "crop_pct": 1.0 if small else 1 / RESIZE_RATIO,
            "crop_mode": "squash" if small else "center",
            "mean": list(MEAN),
            "std": list(STD),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }


def _write_timm(source: LoadedBackbone, network: nn.Module, folder: Path) -> None:
    save_file(_tensors(network), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(timm_config(source, network), indent=2))


def _read_timm(source: LoadedBackbone, folder: Path) -> Features:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def _write_torchvision(source: LoadedBackbone, network: nn.Module, folder: Path) -> None:
    save_file(_tensors(network), folder / f"{_name(source)}.safetensors", metadata={"format": "pt"})


def _read_torchvision(source: LoadedBackbone, folder: Path) -> Features:
    network = _of_torchvision(_name(source))
    network.load_state_dict(load_file(folder / f"{_name(source)}.safetensors"))
    return network.eval()


def _write_onnx(source: LoadedBackbone, network: nn.Module, folder: Path) -> None:
    torch.onnx.export(
        network,
        (_example(source),),
        folder / "model.onnx",
        dynamo=True,
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )


def _read_onnx(source: LoadedBackbone, folder: Path) -> Features:
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(folder / "model.onnx"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])


def _write_torch_export(source: LoadedBackbone, network: nn.Module, folder: Path) -> None:
    program = torch.export.export(
        network, (_example(source),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, folder / "model.pt2")


def _read_torch_export(source: LoadedBackbone, folder: Path) -> Features:
    return torch.export.load(folder / "model.pt2").module()


_WRITERS: dict[ExportFormat, Callable[[LoadedBackbone, nn.Module, Path], None]] = {
    "timm": _write_timm,
    "torchvision": _write_torchvision,
    "onnx": _write_onnx,
    "torch_export": _write_torch_export,
}
_READERS: dict[ExportFormat, Callable[[LoadedBackbone, Path], Features]] = {
    "timm": _read_timm,
    "torchvision": _read_torchvision,
    "onnx": _read_onnx,
    "torch_export": _read_torch_export,
}


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def _example(source: LoadedBackbone) -> Tensor:
    return torch.zeros(TRACED_IMAGES, 3, source.image_size, source.image_size)


def _name(source: LoadedBackbone) -> str:
    return source.architecture.backbone.partition(".")[0]


def _of_torchvision(name: str) -> nn.Module:
    network: nn.Module = torchvision.models.get_model(name, weights=None)
    network.fc = nn.Identity()
    return network


def _not_torchvision(source: LoadedBackbone) -> str | None:
    """Why a backbone is none of torchvision's; None where it is one."""
    name = _name(source)
    if name not in torchvision.models.list_models(torchvision.models):
        return f"it has no {name}"
    with torch.device("meta"):
        theirs = _of_torchvision(name).state_dict()
    own = source.network.state_dict()
    for tensor in own.keys() | theirs.keys():
        if tensor not in own or tensor not in theirs or own[tensor].shape != theirs[tensor].shape:
            return f"its {name} has other tensors, such as {tensor}"
    return None


def _differs(form: str, got: str, allowed: str) -> Syn2coError:
    step = "leave this form out, or raise error_max if that is near enough"
    return Syn2coError(f"export {form}", got, allowed, step)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What torch's and timm's exporters tell their own developers stays out of the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "timm", "onnxscript")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
