"""Weights come from one place, and say what that place does not."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Fault
from ..export import ExportFormat
from ..weights import WeightsSpec
from .registry import rule

_OF_THE_RUN = ("backbone", "patch_size", "backbone_options", "small_image_stem")


@rule
def weights_have_one_source(weights: WeightsSpec) -> Iterator[Fault]:
    given = [name for name in ("run", "file", "random_seed") if getattr(weights, name) is not None]
    if len(given) != 1:
        got = " and ".join(given) if given else "none of them"
        yield Fault("weights", got, "one of run, file, random_seed", "leave one" if given else "add one")
        return
    source = given[0]
    fields = type(weights).model_fields
    for name in _OF_THE_RUN if source == "run" else ("step",):
        if getattr(weights, name) != fields[name].get_default():
            allowed = "without it: the run says so itself" if source == "run" else "only with run"
            yield Fault(f"weights.{name}", f"given with {source}", allowed, "leave it out")
    if source != "run" and weights.backbone is None:
        yield Fault("weights.backbone", f"missing, and {source} is given", "a timm model name", "add it")
    if source == "random_seed":
        for name in ("allow_missing", "allow_unexpected"):
            if getattr(weights, name):
                yield Fault(f"weights.{name}", "given with random_seed", "only with a file", "leave it out")
        if weights.encoder == "target":
            yield Fault("weights.encoder", "target of a random backbone", "online", "leave it out")


@rule
def form_takes_the_network(weights: WeightsSpec, formats: tuple[ExportFormat, ...]) -> Iterator[Fault]:
    if weights.small_image_stem:
        for number, form in enumerate(formats):
            if form in ("timm", "torchvision"):
                got = f"{form} with small_image_stem, which it has no name for"
                yield Fault(f"formats.{number}", got, "onnx, torch_export", "leave it out")
    for form in sorted({form for form in formats if formats.count(form) > 1}):
        yield Fault("formats", f"{form} twice", "each once", "leave one out")
