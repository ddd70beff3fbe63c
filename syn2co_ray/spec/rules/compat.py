"""`method.compat`: the resolved spec says what the published code runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..compat import SYNCO_V1, SYNCO_V2, differing_negatives, optimizer_that_runs
from ..data import DataSpec
from ..errors import Fault, SpecError
from ..method import MethodSpec, MobySpec, MocoSpec
from ..train import TrainSpec
from .registry import rule

HEADS_OF_DEIT_S, HEADS_OF_SYNCO_V2 = 6, 12
FEATURES_OF_SYNCO_V2 = 256


@rule
def compat_says_what_runs(method: MethodSpec, train: TrainSpec) -> Iterator[Fault]:
    """A value that the published code would ignore is a fault: the resolved spec is what runs."""
    if not isinstance(method, MobySpec | MocoSpec) or method.compat is None:
        return
    differing: list[tuple[str, Any, Any]] = []
    if method.negatives is not None:
        try:
            fields = list(differing_negatives(method.negatives, method.compat))
        except SpecError as error:
            yield from error.faults
            fields = []
        differing += [(f"method.negatives.{name}", given, runs) for name, given, runs in fields]
    for name, runs in optimizer_that_runs(method.compat, train.images_per_step_global).items():
        given = getattr(train.optimizer, name)
        if given != runs:
            differing.append((f"train.optimizer.{name}", given, runs))
    differing += _differing_networks(method)
    for where, given, runs in differing:
        yield Fault(
            where,
            f"{_shown(given)}, but the published code runs {_shown(runs)} (compat: {method.compat})",
            _shown(runs),
            "write that, or leave method.compat out",
        )


def _differing_networks(method: MobySpec | MocoSpec) -> Iterator[tuple[str, Any, Any]]:
    """SynCo-v2's ViT-S is that of MoCo v3, and its queues have one width."""
    if method.compat != SYNCO_V2:
        return
    if method.output_features != FEATURES_OF_SYNCO_V2:
        yield "method.output_features", method.output_features, FEATURES_OF_SYNCO_V2
    if not method.backbone.startswith(("deit_small_", "vit_small_")):
        return
    heads = method.backbone_options.get("num_heads", HEADS_OF_DEIT_S)
    if heads != HEADS_OF_SYNCO_V2:
        yield "method.backbone_options.num_heads", heads, HEADS_OF_SYNCO_V2
    if method.positions != "sincos":
        yield "method.positions", method.positions, "sincos"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


@rule
def compat_has_its_clock(method: MethodSpec, train: TrainSpec, data: DataSpec) -> Iterator[Fault]:
    """synco_v2 counts epochs by the images of one of the published run's workers."""
    if not isinstance(method, MobySpec):
        return
    workers, batch = method.compat_world_size, train.images_per_step_global
    if method.compat != SYNCO_V2:
        if workers != 1:
            yield Fault("method.compat_world_size", f"{workers} without compat", "1", "add compat: synco_v2")
        return
    if batch % workers:
        yield Fault(
            "method.compat_world_size",
            f"{workers} for a batch of {batch}",
            "a divisor of train.images_per_step_global",
            "give the number of GPUs of the run that is followed",
        )
        return
    if method.negatives is None or method.negatives.active_epochs is None:
        return
    images = data.images_per_epoch
    if images is None:
        yield Fault(
            "data.images_per_epoch",
            "missing, but compat synco_v2 counts its epochs by it",
            "the images of the data set",
            "add it, such as 1281167 for ImageNet-1k",
        )
        return
    if images < batch:  # a fault of its own, in training.py
        return
    first, _ = method.negatives.active_epochs
    last_epoch = images // batch * train.epochs // (images // (batch // workers))
    if first > last_epoch:
        yield Fault(
            "method.negatives.active_epochs",
            f"begin at epoch {first} of the published code's clock, where the run ends at {last_epoch}",
            f"a first epoch of at most {last_epoch}",
            f"that clock is {workers} times as slow (compat_world_size): start earlier or train longer",
        )


@rule
def compat_v1_has_no_last_epoch(method: MethodSpec, train: TrainSpec) -> Iterator[Fault]:
    if not isinstance(method, MocoSpec) or method.compat != SYNCO_V1 or method.negatives is None:
        return
    epochs = method.negatives.active_epochs
    if epochs is not None and epochs[1] < train.epochs - 1:
        yield Fault(
            "method.negatives.active_epochs",
            f"{list(epochs)}, but the published code never ends them (compat: synco_v1)",
            f"[{epochs[0]}, {train.epochs - 1}]",
            "write that, or leave method.compat out",
        )
