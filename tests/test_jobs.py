"""Every job file: valid, counted, as published in its key fields, honest in its header, and able to run."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import re
import resource
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.spec.identity import json_schema, resolved, run_name
from syn2co_ray.spec.job import PretrainSpec
from syn2co_ray.spec.job_file import read_job_file
from syn2co_ray.spec.load import build_spec, load_job
from syn2co_ray.spec.negatives import NEGATIVE_KINDS
from syn2co_ray.spec.points import number_of_points, points_of
from syn2co_ray.spec.trial_specs import trial_values
from syn2co_ray.spec.yaml_source import parse_yaml

JOBS = Path(__file__).resolve().parents[1] / "jobs"
SHARED = sorted((JOBS / "shared").glob("*.yaml"))
"""Files that jobs build on; no jobs by themselves."""
FILES = sorted(set(JOBS.rglob("*.yaml")) - set(SHARED))
FILES_PER_FOLDER = {".": 5, "cifar10_table": 14, "imagenet": 15, "search": 13}
IMAGENET = sorted((JOBS / "imagenet").glob("*.yaml"))


def twin_of(path: Path) -> Path:
    """The laptop's twin of a study."""
    return path.with_stem(f"{path.stem}_laptop")


each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(JOBS)))
each_imagenet_file = pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)


def test_no_job_file_is_missing_or_uncounted():
    folders = Counter(str(path.parent.relative_to(JOBS)) for path in FILES)
    assert folders.pop("evaluate") >= 16  # see test_jobs_evaluate.py
    assert folders == FILES_PER_FOLDER


def test_every_shared_file_is_built_on():
    written = [parse_yaml(path.read_text(), str(path)).values for path in [*FILES, *SHARED]]
    bases = [part.get("base") for values in written for part in (values, *values.get("steps", ()))]
    bases = [base["base"] if isinstance(base, dict) else base for base in bases]  # what a search varies
    assert {path.name for path in SHARED} <= {Path(base).name for base in bases if base}


@each_file
def test_job_is_valid_and_called_as_its_file(path):
    assert load_job(path).name == path.stem.replace("_", "-")


@each_file
def test_job_is_valid_for_the_json_schema(path):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    validator = jsonschema.Draft202012Validator(json_schema())
    values = read_job_file(path).values
    assert [error.message for error in validator.iter_errors(values)] == []
    for broken in (_with_method(values, framework="symby"), _with_method(values, temprature=1)):
        assert not validator.is_valid(broken)


def _with_method(values, **changes):
    """A copy with another section `method`; of a pipeline, in its last step; of a search, in its base.

    Jobs without that section get the keys themselves, which they do not know.
    """
    if values["kind"] == "search":
        return {**values, "base": _with_method(values["base"], **changes)}
    if "steps" in values:
        return {**values, "steps": [*values["steps"][:-1], _with_method(values["steps"][-1], **changes)]}
    if values["kind"] == "evaluate":
        return {**values, "weights": {**values["weights"], **changes}}
    if "method" not in values:
        return {**values, **changes}
    return {**values, "method": {**values["method"], **changes}}


MOBY_OPTIMIZER = {
    "train.images_per_step_global": 512,
    "train.epochs": 300,
    "train.optimizer.name": "adamw",
    "train.optimizer.betas": [0.9, 0.999],
    "train.optimizer.eps": 1e-8,
    "train.optimizer.learning_rate_base": 1e-3,
    "train.optimizer.images_per_step_of_base_rate": 512,
    "train.optimizer.learning_rate_warmup_base": 5e-7,
    "train.optimizer.learning_rate_min_base": 5e-6,
    "train.optimizer.warmup_epochs": 5,
    "train.optimizer.cosine_includes_warmup": True,
    "train.optimizer.weight_decay": 0.05,
    "train.optimizer.weight_decay_of": "matrices_and_tokens",
    "train.optimizer.gradient_clip_norm": 5.0,
}
MOBY = MOBY_OPTIMIZER | {
    "augment.recipe": "byol",
    "method.framework": "moby",
    "method.temperature": 0.2,
    "method.queue_size_features": 4096,
    "method.hidden_features": 4096,
    "method.output_features": 256,
    "method.momentum": 0.99,
    "method.drop_path_online": 0.2,
    "method.drop_path_target": 0.0,
    "method.negatives": None,
}
SYNBY = {key: value for key, value in MOBY.items() if key != "method.negatives"} | {
    "method.framework": "synby",
    "method.drop_path_online": 0.1,
    "method.compat": None,
    "method.negatives.hardest": 256,
    "method.negatives.active_epochs": [30, 100],
    "method.negatives.interpolated": {"count": 128, "alpha_max": 0.5},
    "method.negatives.extrapolated": {"count": 128, "beta_max": 1.5},
    "method.negatives.mixup": {"count": 128, "gamma_max": 1.0},
    "method.negatives.noise": {"count": 128, "sigma": 0.1, "draw": "full"},
    "method.negatives.perturbed": {"count": 128, "delta": 0.01},
    "method.negatives.adversarial": {"count": 128, "eta": 0.01},
}
SYNCO = {
    "augment.recipe": "moco_v2",
    "method.framework": "synco",
    "method.backbone": "resnet50",
    "method.temperature": 0.2,
    "method.queue_size_features": 65536,
    "method.output_features": 128,
    "method.momentum": 0.999,
    "method.negatives.hardest": 1024,
    "method.negatives.interpolated": {"count": 256, "alpha_max": 0.5},
    "method.negatives.extrapolated": {"count": 256, "beta_max": 1.5},
    "method.negatives.mixup": {"count": 256, "gamma_max": 1.0},
    "method.negatives.noise": {"count": 64, "sigma": 0.01, "draw": "full"},
    "method.negatives.perturbed": {"count": 64, "delta": 0.01},
    "method.negatives.adversarial": {"count": 64, "eta": 0.01},
    "train.images_per_step_global": 256,
    "train.optimizer.name": "sgd",
    "train.optimizer.sgd_momentum": 0.9,
    "train.optimizer.learning_rate_base": 0.03,
    "train.optimizer.images_per_step_of_base_rate": 256,
    "train.optimizer.learning_rate_min_base": 0,
    "train.optimizer.warmup_epochs": 0,
    "train.optimizer.weight_decay": 1e-4,
    "train.optimizer.weight_decay_of": "all",
    "train.optimizer.schedule_every": "epoch",
    "train.optimizer.gradient_clip_norm": None,
}
DEIT_S = {"method.backbone": "deit_small_patch16_224"}
SWIN_T = {"method.backbone": "swin_tiny_patch4_window7_224"}

PUBLISHED: dict[str, dict[str, Any]] = {
    "moby_deit_s": MOBY | DEIT_S,
    "moby_swin_t": MOBY | SWIN_T,
    "synby_deit_s": SYNBY | DEIT_S,
    "synby_swin_t": SYNBY | SWIN_T,
    "synby_deit_s_drop_path_00": SYNBY | DEIT_S | {"method.drop_path_online": 0.0},
    "synby_deit_s_drop_path_02": SYNBY | DEIT_S | {"method.drop_path_online": 0.2},
    "synby_deit_s_drop_path_03": SYNBY | DEIT_S | {"method.drop_path_online": 0.3},
    "synby_vit_s_published_code": SYNBY
    | {
        "method.backbone": "vit_small_patch16_224",
        "method.backbone_options": {"num_heads": 12},
        "method.compat": "synco_v2",
        "method.compat_world_size": 4,
        "method.drop_path_online": 0.2,
        "method.negatives.noise": {"count": 64, "sigma": 0.1, "draw": "full"},
        "method.negatives.perturbed": {"count": 64, "delta": 0.01},
        "method.negatives.adversarial": {"count": 64, "eta": 0.01},
        "method.positions": "sincos",
        "train.precision": "float32",
        "data.images_per_epoch": 1_281_167,
    },
    "synco_r50_200": SYNCO | {"train.epochs": 200, "method.negatives.active_epochs": [10, 199]},
    "synco_r50_800": SYNCO | {"train.epochs": 800, "method.negatives.active_epochs": [10, 799]},
    "moco_v3_deit_s": DEIT_S
    | {
        "augment.recipe": "byol",
        "method.framework": "moco_v3",
        "method.positions": "sincos",
        "method.hidden_features": 4096,
        "method.output_features": 256,
        "method.momentum": 0.99,
        "method.temperature": 0.2,
        "method.freeze_patch_projection": True,
        "method.drop_path_online": 0.0,
        "train.epochs": 300,
        "train.images_per_step_global": 4096,
        "train.optimizer.name": "adamw",
        "train.optimizer.learning_rate_base": 1.5e-4,
        "train.optimizer.images_per_step_of_base_rate": 256,
        "train.optimizer.learning_rate_warmup_base": 0,
        "train.optimizer.learning_rate_min_base": 0,
        "train.optimizer.warmup_epochs": 40,
        "train.optimizer.cosine_includes_warmup": False,
        "train.optimizer.weight_decay": 0.1,
        "train.optimizer.weight_decay_of": "all",
        "train.optimizer.gradient_clip_norm": None,
    },
    "dino_deit_s": DEIT_S
    | {
        "augment.recipe": "dino",
        "augment.local_views": 8,
        "augment.local_image_size": 96,
        "method.framework": "dino",
        "method.hidden_features": 2048,
        "method.bottleneck_features": 256,
        "method.prototypes": 65536,
        "method.momentum": 0.996,
        "method.drop_path_online": 0.1,
        "method.drop_path_target": 0.0,
        "method.student_temperature": 0.1,
        "method.teacher_temperature_start": 0.04,
        "method.teacher_temperature": 0.07,
        "method.teacher_temperature_warmup_epochs": 30,
        "method.centre_momentum": 0.9,
        "method.last_layer_frozen_epochs": 1,
        "train.epochs": 300,
        "train.images_per_step_global": 1024,
        "train.optimizer.learning_rate_base": 5e-4,
        "train.optimizer.images_per_step_of_base_rate": 256,
        "train.optimizer.learning_rate_warmup_base": 0,
        "train.optimizer.learning_rate_min_base": 2.5e-7,
        "train.optimizer.warmup_epochs": 10,
        "train.optimizer.cosine_includes_warmup": False,
        "train.optimizer.weight_decay": 0.04,
        "train.optimizer.weight_decay_end": 0.4,
        "train.optimizer.weight_decay_of": "matrices_and_tokens",
        "train.optimizer.gradient_clip_norm": 3.0,
    },
    "byol_deit_s": DEIT_S
    | {
        "augment.recipe": "byol",
        "method.framework": "byol",
        "method.hidden_features": 4096,
        "method.output_features": 256,
        "method.momentum": 0.996,
        "method.drop_path_online": 0.2,
        "train.epochs": 300,
        "train.images_per_step_global": 512,
        "train.optimizer.learning_rate_base": 2e-4,
        "train.optimizer.images_per_step_of_base_rate": 512,
        "train.optimizer.learning_rate_warmup_base": 5e-7,
        "train.optimizer.learning_rate_min_base": 5e-6,
        "train.optimizer.warmup_epochs": 5,
        "train.optimizer.weight_decay": 0.03,
        "train.optimizer.weight_decay_of": "matrices_and_tokens",
        "train.optimizer.gradient_clip_norm": 5.0,
    },
    "supervised_deit_s": DEIT_S
    | {
        "augment.recipe": "supervised",
        "method.framework": "supervised",
        "method.classes": 1000,
        "method.drop_path_online": 0.1,
        "method.label_smoothing": 0.1,
        "train.epochs": 300,
        "train.images_per_step_global": 1024,
        "train.optimizer.name": "adamw",
        "train.optimizer.learning_rate_base": 5e-4,
        "train.optimizer.images_per_step_of_base_rate": 512,
        "train.optimizer.learning_rate_warmup_base": 5e-7,
        "train.optimizer.learning_rate_min_base": 5e-6,
        "train.optimizer.warmup_epochs": 5,
        "train.optimizer.schedule_every": "epoch",
        "train.optimizer.weight_decay": 0.05,
        "train.optimizer.weight_decay_of": "matrices",
        "train.optimizer.gradient_clip_norm": None,
    },
    "syn2co_deit_s_in100": SYNBY | DEIT_S,
}
"""Dotted key -> value of the published recipe, job by job."""


def at(values: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        values = values[key]
    return values


@each_imagenet_file
def test_resolved_job_is_the_published_recipe(path):
    expected = PUBLISHED[path.stem]
    values = resolved(load_job(path))
    assert {key: at(values, key) for key in expected} == expected


def test_syn2co_takes_half_of_every_step_from_generated_images():
    sources = load_job(JOBS / "imagenet/syn2co_deit_s_in100.yaml").data.train
    assert [(source.origin, source.share) for source in sources] == [("real", 0.5), ("generated", 0.5)]


@pytest.mark.parametrize("epochs", [200, 800])
def test_synco_jobs_also_run_as_the_published_code_and_as_their_baseline(epochs):
    path = JOBS / f"imagenet/synco_r50_{epochs}.yaml"
    assert load_job(path, ["method.compat=synco_v1"]).method.compat == "synco_v1"  # type: ignore[union-attr]
    baseline = load_job(path, ["method.framework=moco_v2", "method.negatives=null", "name=moco-v2"])
    assert baseline.method.framework == "moco_v2"


FORWARDS_PER_IMAGE = {"dino": 12.3, "supervised": 3.0}
"""An update costs three forward passes of the online network and one of the target, for each view."""
IMAGES_PER_S = {
    "deit_small_patch16_224": 940,
    "vit_small_patch16_224": 940,
    "swin_tiny_patch4_window7_224": 755,
}
"""Inference throughput of one V100, as published with MoBY."""


def estimated_hours(job: PretrainSpec) -> float:
    if job.method.backbone == "resnet50":
        return 53 * 8 * job.train.epochs / 200
    images = 1_281_167 if len(job.data.train) == 1 else 126_689 + 130_000
    images = job.data.images_per_epoch or images
    forwards = FORWARDS_PER_IMAGE.get(job.method.framework, 8.0)
    return images * job.train.epochs * forwards / IMAGES_PER_S[job.method.backbone] / 3600


@each_imagenet_file
def test_header_names_source_figure_cost_and_command(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Source", "Expected", "Cost", "Run"):
        assert sum(line.startswith(f"# {word}: ") for line in header) == 1, word
    assert f"# Run: syn2co run jobs/imagenet/{path.name}" in header
    cost = next(line for line in header if line.startswith("# Cost: "))
    said = re.search(r"about ([\d,]+) V100-hours, estimated: ", cost)
    assert said is not None
    assert float(said[1].replace(",", "")) == pytest.approx(estimated_hours(load_job(path)), rel=0.02)


STUDIES = sorted(path for path in (JOBS / "search").glob("*.yaml") if twin_of(path).exists())
"""Searches at the size of a cluster, each with its twin for a laptop."""
each_study = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
NOT_ON_A_LAPTOP = {"steps_guidance": {"data.live.generator.pipeline.guidance"}}
"""The shipped diffusion model is unconditional: it has no guidance."""


def test_every_study_has_a_twin():
    twins = {path for path in (JOBS / "search").glob("*.yaml") if path.stem.endswith("_laptop")}
    assert {twin_of(path) for path in STUDIES} == twins
    assert len(STUDIES) == 6


@each_study
def test_a_twin_varies_the_same_keys_with_as_many_forms(path):
    study, twin = load_job(path), load_job(twin_of(path))
    missing = NOT_ON_A_LAPTOP.get(path.stem, set())
    assert set(study.space) - missing == set(twin.space)
    for key in twin.space:
        assert study.space[key].given_forms == twin.space[key].given_forms
        assert study.space[key].when.keys() == twin.space[key].when.keys()
    assert study.searcher == twin.searcher
    assert study.scheduler.name == twin.scheduler.name


@each_study
def test_a_study_says_source_figure_cost_and_its_twin_what_it_shows(path):
    study = load_job(path)
    for file, words in ((path, ("Source", "Expected", "Cost")), (twin_of(path), ("Shows", "Time"))):
        header = "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))
        for word in (*words, "Run"):
            assert len(re.findall(rf"^# {word}: ", header, re.MULTILINE)) == 1, word
        assert f"# Run: syn2co run jobs/search/{file.name}" in header
    said = re.search(r"about ([\d,]+) V100-hours", path.read_text())
    assert said is not None
    cost = number_of_points(study) * estimated_hours(study.base)
    assert float(said[1].replace(",", "")) == pytest.approx(cost, rel=0.02)


EVALUATIONS_OF = {
    "linear_imagenet_deit_s": "imagenet/moby_deit_s",
    "linear_imagenet_swin_t": "imagenet/moby_swin_t",
    "finetune_imagenet_deit_s": "imagenet/moby_deit_s",
    "probes_digits": "digits_synby",
}


@pytest.mark.parametrize("name", EVALUATIONS_OF)
def test_an_evaluation_measures_the_run_of_the_job_that_it_names(name):
    job = load_job(JOBS / f"evaluate/{name}.yaml")
    trained = load_job(JOBS / f"{EVALUATIONS_OF[name]}.yaml")
    assert job.weights.run == f"{trained.storage}/{run_name(trained)}"
    header = (JOBS / f"evaluate/{name}.yaml").read_text()
    assert f"syn2co run jobs/evaluate/{name}.yaml" in header
    said = re.search(r"about ([\d,]+) V100-hours, estimated: (\d+) M images x (\d)", header)
    if said is None:
        assert name == "probes_digits"
        return
    hours, millions, forwards = (float(part) for part in said.groups())
    spec = job.linear_augmented or job.fine_tune
    shares = sum(job.fine_tune.shares) if job.fine_tune else 1
    assert millions == pytest.approx(1.281167 * spec.epochs * shares, rel=0.01)
    backbone = trained.method.backbone
    assert hours == pytest.approx(millions * 1e6 * forwards / IMAGES_PER_S[backbone] / 3600, rel=0.02)


def test_the_linear_probe_is_mobys():
    for name in ("deit_s", "swin_t"):
        spec = load_job(JOBS / f"evaluate/linear_imagenet_{name}.yaml").linear_augmented
        assert (spec.epochs, spec.images_per_step, spec.warmup_epochs, spec.momentum) == (100, 512, 5.0, 0.9)
        assert (spec.weight_decay, spec.label_smoothing, spec.drop_path) == (0.0, 0.1, 0.2)
        assert (spec.crop_scale, spec.flip_probability, spec.gradient_clip_norm) == ((0.08, 1.0), 0.5, 5.0)
        assert 1.0 in spec.learning_rates


def test_the_ablation_is_each_kind_alone_each_pair_all_and_none():
    for name in ("strategies", "strategies_laptop"):
        search = load_job(JOBS / f"search/{name}.yaml")
        jobs = [build_spec(trial_values(search, point)) for point in points_of(search)]
        kinds = [tuple(job.method.negatives.kinds()) if job.method.negatives else () for job in jobs]
        expected = [
            (),
            *itertools.combinations(NEGATIVE_KINDS, 1),
            *itertools.combinations(NEGATIVE_KINDS, 2),
            NEGATIVE_KINDS,
        ]
        assert sorted(kinds) == sorted(expected)


@pytest.mark.parametrize("name", ["real_generated_share", "real_generated_share_laptop"])
def test_every_share_trains_as_many_steps_and_is_classified_with_real_images(name):
    search = load_job(JOBS / f"search/{name}.yaml")
    jobs = [build_spec(trial_values(search, point)) for point in points_of(search)]
    generated = [
        sum(source.share or 1.0 for source in job.data.train if source.origin == "generated") for job in jobs
    ]
    assert generated == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert len({job.data.images_per_epoch for job in jobs} - {None}) == 1
    assert all(job.data.eval_bank.origin == "real" for job in jobs)


TWO_STEPS = [
    "storage={folder}/runs",
    "data.prepare=[{{dataset: digits, into: {folder}/digits}}]",
    "data.eval=null",
    "data.images_per_epoch=8",
    "data.window_images=8",
    "train.images_per_step_global=4",
    "train.workers=1",
    "train.epochs=1",
    "train.optimizer.warmup_epochs=0",
]


def two_steps(path: Path, folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Figures of two steps of the job's own network on digits, and this process's peak memory in bytes."""
    from syn2co_ray.submit.prepare import prepare_run

    from .train.local_run import local_loop

    values = resolved(load_job(path))
    overrides = [text.format(folder=folder) for text in TWO_STEPS]
    if _has(values, "method.negatives.active_epochs"):
        overrides.append("method.negatives.active_epochs=[0, 1]")
    shares = [source["share"] for source in values["data"]["train"]]
    sources = zip(("train", "eval"), shares, strict=False)
    listed = [f"{{uri: {folder}/digits/{part}, share: {'null' if s is None else s}}}" for part, s in sources]
    overrides.append(f"data.train=[{', '.join(listed)}]")
    loop = local_loop(prepare_run(load_job(path, overrides), lambda text: None))
    rows: list[dict[str, Any]] = []
    loop.context.show = rows.append
    loop.run_to_end()
    rows = [row for row in rows if "step" in row]  # not what tells of epochs and checkpoints
    return rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _has(values: Any, dotted: str) -> bool:
    try:
        return at(values, dotted) is not None
    except (KeyError, TypeError):
        return False


@pytest.mark.slow
@each_imagenet_file
def test_job_trains_two_steps_of_its_full_network_on_a_cpu(path, tmp_path):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows, peak_bytes = pool.submit(two_steps, path, tmp_path).result()
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) and not row["skipped"] for row in rows)
    assert rows[0]["loss"] != rows[1]["loss"]
    assert peak_bytes < 8e9
