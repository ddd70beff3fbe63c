"""Generators in training, and jobs that generate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from string import Formatter

from ..augment import AugmentSpec
from ..base import Pool
from ..data import DataSpec
from ..errors import Fault
from ..generate import ClassesSpec, GateSpec, PipelineSpec, PromptsSpec
from ..generator_method import DdpmSpec, GeneratorMethodSpec, LoraSpec
from ..source import SourceSpec
from .registry import cross_field_faults, rule
from .training import gpus_of_pool


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
    yield from gpus_of_pool("actors", actors)


@rule
def live_pool_turns_over(kind: str, data: DataSpec) -> Iterator[Fault]:
    live = data.live
    if live is None:
        return
    if kind != "pretrain":
        yield Fault("data.live", f"given with kind {kind}", "only with kind pretrain", "leave it out")
    unit = live.uses * live.generator.images_per_shard
    if live.pool_images % unit:
        got = f"{live.pool_images} is not a multiple of uses x generator.images_per_shard = {unit}"
        below, above = live.pool_images // unit * unit, (live.pool_images // unit + 1) * unit
        nearest = f"use {below} or {above}" if below else f"use {above}"
        yield Fault("data.live.pool_images", got, f"a multiple of {unit}", nearest)
    if live.floor_images is not None and live.floor_images > live.pool_images:
        got = f"{live.floor_images} is more than the pool's {live.pool_images}"
        yield Fault("data.live.floor_images", got, "at most pool_images", "lower it")
    generator = {name: getattr(live.generator, name) for name in type(live.generator).model_fields}
    for fault in cross_field_faults(generator):
        yield replace(fault, where=f"data.live.generator.{fault.where}")
