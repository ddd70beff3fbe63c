"""Rules that look at more than one field of a job: the one place for them.

Each rule names the sections it needs as its parameters; it runs when those are valid by themselves,
so a fault in one section never hides one in another.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from string import Formatter
from typing import Any

from .augment import DINO_LOCAL_IMAGE_SIZE, AugmentSpec
from .base import Pool, Section
from .compat import SYNCO_V1, SYNCO_V2, differing_negatives, optimizer_that_runs
from .data import DataSpec, ShareSchedule, SourceSpec, share_in
from .errors import Fault, SpecError
from .evaluate import EvaluateSpec
from .generate import ClassesSpec, GateSpec, PipelineSpec, PromptsSpec
from .generator_method import DdpmSpec, GeneratorMethodSpec, LoraSpec
from .method import BackboneSpec, MethodSpec, MobySpec, MocoSpec, SupervisedSpec
from .train import TrainSpec

RULES: list[Callable[..., Iterator[Fault]]] = []


def rule(check: Callable[..., Iterator[Fault]]) -> Callable[..., Iterator[Fault]]:
    RULES.append(check)
    return check


def cross_field_faults(sections: dict[str, Any]) -> list[Fault]:
    """Faults of all rules whose sections are present in `sections` (name -> valid section)."""
    faults: list[Fault] = []
    for check in RULES:
        needed = list(inspect.signature(check).parameters)
        if all(name in sections for name in needed):
            faults += check(**{name: sections[name] for name in needed})
    return faults


def worker_counts_allowed(train: TrainSpec) -> list[int]:
    """Worker counts from min to max that split the global batch evenly."""
    counts = range(train.workers.min, train.workers.max + 1)
    return [count for count in counts if train.images_per_step_global % count == 0]


@rule
def pools_are_ranges(train: TrainSpec, augment: AugmentSpec) -> Iterator[Fault]:
    for where, pool in (("train.workers", train.workers), ("augment.actors", augment.actors)):
        if pool.min > pool.max:
            yield Fault(where, f"min {pool.min} is more than max {pool.max}", "min <= max", "swap them")


@rule
def batch_splits_over_workers(train: TrainSpec) -> Iterator[Fault]:
    batch = train.images_per_step_global
    for bound in sorted({train.workers.min, train.workers.max}):
        if batch % bound:
            below, above = batch // bound * bound, (batch // bound + 1) * bound
            nearest = f"{below} or {above}" if below else f"{above}"
            yield Fault(
                "train.images_per_step_global",
                f"{batch} is not a multiple of {bound} workers",
                "a multiple of train.workers.min and of train.workers.max",
                f"use {nearest}",
            )


@rule
def schedules_fit(train: TrainSpec) -> Iterator[Fault]:
    optimizer = train.optimizer
    if optimizer.warmup_epochs >= train.epochs:
        yield Fault(
            "train.optimizer.warmup_epochs",
            f"{optimizer.warmup_epochs:g} of {train.epochs} epochs",
            "less than train.epochs",
            "shorten the warm-up or train longer",
        )
    if optimizer.learning_rate_min_base > optimizer.learning_rate_base:
        yield Fault(
            "train.optimizer.learning_rate_min_base",
            f"{optimizer.learning_rate_min_base:g} is above the peak {optimizer.learning_rate_base:g}",
            "at most learning_rate_base",
            "lower it",
        )


@rule
def shares_sum_to_one(data: DataSpec) -> Iterator[Fault]:
    shares = [source.share for source in data.train]
    given = [share for share in shares if share is not None]
    if not given:
        return
    if len(given) < len(shares):
        missing = next(i for i, share in enumerate(shares) if share is None)
        yield Fault(
            f"data.train.{missing}.share", "missing while other sources have one", "all or none", "add it"
        )
        return
    schedules = [(i, share) for i, share in enumerate(shares) if isinstance(share, ShareSchedule)]
    for number, schedule in schedules:
        first, last = schedule.epochs
        if not 0 <= first <= last:
            where = f"data.train.{number}.share.epochs"
            yield Fault(where, f"[{first}, {last}]", "0 <= first <= last", "swap them")
            return
    # Between these epochs all shares move in straight lines, and so does their sum.
    for epoch in sorted({0, *(epoch for _, schedule in schedules for epoch in schedule.epochs)}):
        total = float(sum(share_in(share, epoch) for share in given))
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            when = f" in epoch {epoch}" if schedules else ""
            yield Fault("data.train", f"shares sum to {total:g}{when}", "a sum of 1", "change a share")
            return


@rule
def epoch_holds_a_step(data: DataSpec, train: TrainSpec) -> Iterator[Fault]:
    if data.images_per_epoch is not None and data.images_per_epoch < train.images_per_step_global:
        yield Fault(
            "data.images_per_epoch",
            f"{data.images_per_epoch} is less than one step of {train.images_per_step_global} images",
            "at least train.images_per_step_global",
            "raise it or leave it out",
        )


@rule
def evaluation_has_images(data: DataSpec, evaluate: EvaluateSpec) -> Iterator[Fault]:
    if data.eval is None and data.eval_bank is not None:
        yield Fault("data.eval_bank", "given without data.eval", "both or none", "add data.eval")
    if data.eval is not None and data.eval_bank is None and all(s.origin == "generated" for s in data.train):
        yield Fault(
            "data.eval_bank",
            "missing, and no train source is real",
            "a labelled source",
            "add data.eval_bank",
        )


WITHOUT_NEGATIVES = {"synby": "moby", "synco": "moco_v2"}
"""Framework with synthesized negatives -> the same without them."""


@rule
def negatives_fit_the_framework(method: MethodSpec) -> Iterator[Fault]:
    if not isinstance(method, MobySpec | MocoSpec):
        return
    negatives = method.negatives
    plain = WITHOUT_NEGATIVES.get(method.framework)
    if plain is None and negatives is not None:
        synthesizing = next(name for name, base in WITHOUT_NEGATIVES.items() if base == method.framework)
        yield Fault(
            "method.negatives",
            f"given with framework {method.framework}",
            f"only with {synthesizing}",
            f"use framework: {synthesizing}",
        )
    if plain is not None and (negatives is None or not negatives.kinds()):
        yield Fault(
            "method.negatives",
            f"{method.framework} without a synthesized negative",
            "at least one kind with a count above 0",
            f"add for example `interpolated: 128`, or use framework: {plain}",
        )
    if negatives is not None and negatives.hardest > method.queue_size_features:
        yield Fault(
            "method.negatives.hardest",
            f"{negatives.hardest} of a queue of {method.queue_size_features}",
            "at most method.queue_size_features",
            "lower hardest or lengthen the queue",
        )


@rule
def negatives_are_active_in_the_run(method: MethodSpec, train: TrainSpec) -> Iterator[Fault]:
    if not isinstance(method, MobySpec | MocoSpec) or method.negatives is None:
        return
    if method.negatives.active_epochs is None:
        return
    first, last = method.negatives.active_epochs
    if not 0 <= first <= last or first >= train.epochs:
        yield Fault(
            "method.negatives.active_epochs",
            f"[{first}, {last}] with {train.epochs} epochs",
            "0 <= first <= last, first < train.epochs",
            "epochs are counted from 0 and both ends are included",
        )


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
    for where, given, runs in differing:
        yield Fault(
            where,
            f"{_shown(given)}, but the published code runs {_shown(runs)} (compat: {method.compat})",
            _shown(runs),
            "write that, or leave method.compat out",
        )


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


@rule
def crop_scales_are_ranges(augment: AugmentSpec) -> Iterator[Fault]:
    for name in ("crop_scale", "local_crop_scale"):
        scale = getattr(augment, name)
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            yield Fault(f"augment.{name}", f"{list(scale)}", "0 < smallest <= largest <= 1", "swap them")


@rule
def local_views_belong_to_dino(augment: AugmentSpec) -> Iterator[Fault]:
    for name in ("local_views", "local_image_size", "local_crop_scale"):
        if augment.recipe != "dino" and getattr(augment, name) is not None:
            got = f"given with recipe {augment.recipe}"
            yield Fault(f"augment.{name}", got, "only with recipe dino", "leave it out")


VIEW_RECIPES = {
    "dino": ("dino", "byol", "moco_v2"),
    "supervised": ("supervised", "byol", "moco_v2"),
    "ddpm": ("plain",),
    "lora": ("plain",),
}
"""Framework -> recipes it can take; all others take those of two views."""


@rule
def recipe_makes_the_frameworks_views(augment: AugmentSpec, method: MethodSpec) -> Iterator[Fault]:
    allowed = VIEW_RECIPES.get(method.framework, ("byol", "moco_v2"))
    if augment.recipe not in allowed:
        got = f"{augment.recipe} with framework {method.framework}"
        yield Fault("augment.recipe", got, ", ".join(allowed), f"use {allowed[0]}")


@rule
def supervised_has_classes(method: MethodSpec) -> Iterator[Fault]:
    if isinstance(method, SupervisedSpec) and method.number_of_classes < 2:
        got = f"{method.number_of_classes} classes"
        yield Fault("method.classes", got, "at least 2", "give their number, or their labels in order")


@rule
def local_views_fit_the_backbone(augment: AugmentSpec, method: MethodSpec) -> Iterator[Fault]:
    if not isinstance(method, BackboneSpec) or augment.recipe != "dino" or augment.local_views == 0:
        return
    size = augment.local_image_size or DINO_LOCAL_IMAGE_SIZE
    yield from _size_faults("augment.local_image_size", size, method)
    takes_any_size = method.backbone_options.get("dynamic_img_size")
    if _patch_size(method) and size != augment.image_size and not takes_any_size:
        yield Fault(
            "method.backbone_options.dynamic_img_size",
            f"missing, and local views have {size} pixels where others have {augment.image_size}",
            "true, for ViTs of timm",
            "add backbone_options: {dynamic_img_size: true}",
        )


@rule
def image_fits_patches(augment: AugmentSpec, method: MethodSpec) -> Iterator[Fault]:
    yield from _size_faults("augment.image_size", augment.image_size, method)


def _patch_size(method: Section) -> int | None:
    if not isinstance(method, BackboneSpec):
        return None
    named = re.search(r"patch(\d+)", method.backbone)
    return method.patch_size or (int(named.group(1)) if named else None)


def _size_faults(where: str, size: int, method: Section) -> Iterator[Fault]:
    patch = _patch_size(method)
    if patch and size % patch:
        below, above = size // patch * patch, (size // patch + 1) * patch
        yield Fault(
            where,
            f"{size} is not a multiple of the patch size {patch}",
            f"a multiple of {patch}",
            f"use {below} or {above}, or set method.patch_size"
            if below
            else f"use {above}, or set method.patch_size",
        )


@rule
def image_fits_levels(augment: AugmentSpec, method: GeneratorMethodSpec) -> Iterator[Fault]:
    if not isinstance(method, DdpmSpec):
        return
    channels, halvings = method.block_channels, len(method.block_channels) - 1
    if not channels or any(count < 8 or count % 8 for count in channels):
        yield Fault(
            "method.block_channels", f"{list(channels)}", "multiples of 8, one a level", "change them"
        )
    elif augment.image_size % 2**halvings:
        got = f"{augment.image_size} cannot be halved {halvings} times"
        allowed = f"a multiple of {2**halvings} with {halvings + 1} levels"
        yield Fault("augment.image_size", got, allowed, "change it, or method.block_channels")
    for level in method.attention_levels:
        if level not in range(len(channels)):
            allowed = f"levels from 0 to {halvings}"
            yield Fault("method.attention_levels", f"{level}", allowed, "count from 0, finest first")


@rule
def lora_prompts_name_their_class(method: GeneratorMethodSpec) -> Iterator[Fault]:
    if not isinstance(method, LoraSpec):
        return
    try:
        fields = {field for _, field, _, _ in Formatter().parse(method.prompt) if field is not None}
    except ValueError as error:
        yield Fault(
            "method.prompt", f"{method.prompt!r}: {error}", "text, with {name} for the class", "mend it"
        )
        return
    if fields - {"name"}:
        unknown = sorted(fields - {"name"})[0]
        yield Fault("method.prompt", f"{{{unknown}}} is no field", "{name}", "mend it")
    elif bool(fields) != bool(method.classes):
        got = "{name} without method.classes" if fields else "no {name}, and method.classes is given"
        yield Fault("method.prompt", got, "both or neither", "add the other, or leave it out")


@rule
def generator_is_not_classified(kind: str, data: DataSpec) -> Iterator[Fault]:
    if kind == "train_generator" and (data.eval is not None or data.eval_bank is not None):
        where = "data.eval" if data.eval is not None else "data.eval_bank"
        yield Fault(where, "given with kind train_generator", "only with kind pretrain", "leave it out")


@rule
def one_sort_of_condition(
    pipeline: PipelineSpec,
    prompts: PromptsSpec | None,
    classes: ClassesSpec | None,
    variations_of: SourceSpec | None,
) -> Iterator[Fault]:
    if classes is not None and (prompts is not None or variations_of is not None):
        got = "given with " + ("prompts" if prompts is not None else "variations_of")
        yield Fault("classes", got, "one of them", "leave one out")
    if variations_of is not None and prompts is not None and prompts.captions is not None:
        yield Fault("prompts.captions", "given with variations_of", "classes and templates", "leave one out")
    if pipeline.strength is not None and variations_of is None:
        yield Fault("pipeline.strength", "given without variations_of", "only with it", "leave it out")


@rule
def prompts_have_text(prompts: PromptsSpec | None) -> Iterator[Fault]:
    if prompts is None:
        return
    if bool(prompts.classes) == (prompts.captions is not None):
        got = "classes and captions" if prompts.classes else "neither classes nor captions"
        yield Fault("prompts", got, "one of them", "give names of classes, or a source of captions")
    known = {"name", "definition", "background"}
    for number, template in enumerate(prompts.templates):
        try:
            fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
        except ValueError as error:
            yield Fault(
                f"prompts.templates.{number}", f"{template!r}: {error}", "text with {name}", "mend it"
            )
            continue
        if unknown := sorted(fields - known):
            allowed = ", ".join(f"{{{name}}}" for name in sorted(known))
            yield Fault(f"prompts.templates.{number}", f"{{{unknown[0]}}} is no field", allowed, "mend it")
        if "definition" in fields:
            for name in prompts.classes:
                if name not in prompts.definitions:
                    got, step = f"missing, and template {number} asks for it", "add it"
                    yield Fault(f"prompts.definitions.{name}", got, "a definition of every class", step)
        if "background" in fields and not prompts.backgrounds:
            got = f"empty, and template {number} asks for one"
            yield Fault("prompts.backgrounds", got, "at least one", "add some")


@rule
def class_names_match_their_numbers(classes: ClassesSpec | None) -> Iterator[Fault]:
    if classes is not None and classes.names and len(classes.names) != len(classes.numbers):
        got = f"{len(classes.names)} for {len(classes.numbers)} numbers"
        yield Fault("classes.names", got, "as many as numbers, or none", "add or remove some")


@rule
def drawn_settings_are_ranges(pipeline: PipelineSpec) -> Iterator[Fault]:
    for name, lowest, highest in (("guidance", 0.0, math.inf), ("strength", 0.0, 1.0)):
        value = getattr(pipeline, name)
        if value is None:
            continue
        low, high = value if isinstance(value, tuple) else (value, value)
        if not lowest <= low <= high <= highest:
            allowed = "0 <= low <= high" + (" <= 1" if highest == 1.0 else "")
            yield Fault(f"pipeline.{name}", f"{value}", allowed, "change it")


@rule
def duplicates_have_a_measure(gate: GateSpec) -> Iterator[Fault]:
    if gate.duplicates_of and gate.duplicate_bits_max is None:
        got, step = "missing, and gate.duplicates_of is given", "add for example 2"
        yield Fault("gate.duplicate_bits_max", got, "0 to 32", step)


@rule
def generating_actors_are_a_range(actors: Pool) -> Iterator[Fault]:
    if actors.min > actors.max:
        yield Fault("actors", f"min {actors.min} is more than max {actors.max}", "min <= max", "swap them")
