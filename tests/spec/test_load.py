"""A job file is accepted as a whole or refused with all its faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.load import load_job, load_text

JOBS = Path(__file__).resolve().parents[2] / "jobs"

MINIMAL = """\
kind: pretrain
name: tiny
seed: 1
storage: runs
data:
  train:
    - {uri: images}
augment: {image_size: 32}
method:
  framework: synby
  backbone: vit_tiny_patch16_224
  patch_size: 8
  negatives: {hardest: 16, interpolated: 8, noise: {count: 4, sigma: 0.01}}
train:
  images_per_step_global: 64
  epochs: 10
"""


def faults(text: str, *overrides: str) -> dict[str, str]:
    """Dotted key -> message of everything that is wrong."""
    with pytest.raises(SpecError) as caught:
        load_text(text, overrides)
    return {fault.where: fault.render("job.yaml") for fault in caught.value.faults}


def test_minimal_job_fills_in_published_defaults():
    job = load_text(MINIMAL)
    assert job.train.optimizer.weight_decay == 0.05
    assert job.method.temperature == 0.2
    assert job.method.negatives.noise.sigma == 0.01
    assert list(job.method.negatives.kinds()) == ["interpolated", "noise"]
    assert (job.train.workers.min, job.train.workers.max) == (1, 1)


def test_unknown_keys_name_their_neighbour_and_their_line():
    found = faults(
        MINIMAL.replace("epochs: 10", "epoch: 10").replace("uri: images", "uri: images, formt: parquet")
    )
    assert "job.yaml:16: train.epoch: unknown key" in found["train.epoch"]
    assert "did you mean epochs?" in found["train.epoch"]
    assert "job.yaml:7: data.train.0.formt" in found["data.train.0.formt"]
    assert "did you mean format?" in found["data.train.0.formt"]
    assert "missing" in found["train.epochs"]


def test_all_faults_come_at_once_also_across_sections():
    found = faults(
        MINIMAL,
        "train.epochs=ten",
        "augment.image_size=30",
        "method.negatives.mixupp=3",
        "method.queue_size_features=8",
        "data.window_images=0",
    )
    assert set(found) == {
        "train.epochs",
        "augment.image_size",
        "method.negatives.mixupp",
        "method.negatives.hardest",
        "data.window_images",
    }


@pytest.mark.parametrize(
    ("overrides", "where", "says"),
    [
        (["train.images_per_step_global=1000", "train.workers={min: 1, max: 7}"], "train.images_per_step_global",
         "1000 is not a multiple of 7 workers"),
        (["train.workers={min: 4, max: 2}"], "train.workers", "min 4 is more than max 2"),
        (["method.negatives.hardest=5000"], "method.negatives.hardest", "5000 of a queue of 4096"),
        (["method.negatives.mixup=200", "method.negatives.hardest=199"], "method.negatives.mixup",
         "200 negatives of a pool of 199"),
        (["method.backbone=deit_smal_patch16_224"], "method.backbone", "allowed: deit_small_patch16_224, "),
        (["method.negatives.active_epochs=[10, 20]"], "method.negatives.active_epochs", "[10, 20] with 10 epochs"),
        (["method.negatives.active_epochs=[5, 2]"], "method.negatives.active_epochs", "first <= last"),
        (["method.negatives=null"], "method.negatives", "synby without a synthesized negative"),
        (["method.framework=moby"], "method.negatives", "given with framework moby"),
        (["augment.image_size=36"], "augment.image_size", "use 32 or 40"),
        (["augment.crop_scale=[0.9, 0.2]"], "augment.crop_scale", "0 < smallest <= largest <= 1"),
        (["data.train=[{uri: a, share: 0.5}, {uri: b, share: 0.4}]"], "data.train", "shares sum to 0.9"),
        (["data.train=[{uri: a, share: 0.5}, {uri: b}]"], "data.train.1.share", "all or none"),
        (
            ["data.train=[{uri: a, share: 0.5}, {uri: b, share: {start: 0, end: 0.5, epochs: [0, 5]}}]"],
            "data.train",
            "shares sum to 0.5 in epoch 0",
        ),
        (
            ["data.train=[{uri: a, share: {start: 1, end: 0.5, epochs: [5, 2]}}]"],
            "data.train.0.share.epochs",
            "first <= last",
        ),
        (["data.images_per_epoch=10"], "data.images_per_epoch", "less than one step of 64"),
        (["data.eval_bank={uri: b}"], "data.eval_bank", "without data.eval"),
        (["data.train=[{uri: a, origin: generated}]", "data.eval={uri: b}"], "data.eval_bank", "no train source is real"),
        (["train.workers={min: 1, max: 1, gpus_each: 1.5}"], "train.workers.gpus_each", "whole numbers above 1; next: use 1 or 2"),
        (["augment.actors={min: 1, max: 1, gpus_each: 2.25}"], "augment.actors.gpus_each", "use 2 or 3"),
        (["train.workers={min: 1, max: 2, gpus_each: 0.5}"], "train.workers.gpus_each", "which NCCL refuses"),
        (["train.optimizer.warmup_epochs=10"], "train.optimizer.warmup_epochs", "10 of 10 epochs"),
        (["train.optimizer.decay=step"], "train.optimizer.decay_every_epochs", "add it, such as 3, a third"),
        (["train.optimizer.decay_every_epochs=2"], "train.optimizer.decay_every_epochs", "2, but decay is left out"),
        (["train.epochs=2.5", "train.optimizer.warmup_epochs=1"], "train.epochs", "2.5"),
        (["seed=true"], "seed", "True"),
        (["kind=pretrian"], "kind", "did you mean pretrain?"),
        (["data.prepare=[{dataset: digits, into: x, eval_sahre: 0.1}]"], "data.prepare.0.eval_sahre",
         "did you mean eval_share?"),
        (["data.train.3.uri=x"], "data.train.3", "no such list item"),
        (["train.epochs"], "train.epochs", "not an override"),
    ],
)  # fmt: skip
def test_a_wrong_value_says_where_what_and_what_next(overrides, where, says):
    assert says in faults(MINIMAL, *overrides)[where]


FRAMEWORKS = "moby, synby, moco_v2, synco, moco_v3, byol, dino, supervised"


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("{framework: symby}", f"method.framework: got 'symby'; allowed: {FRAMEWORKS}; next: did you mean synby?"),
        ("{framework: 3}", f"method.framework: got '3'; allowed: {FRAMEWORKS}"),
        ("{backbone: resnet50}", f"method.framework: missing; allowed: {FRAMEWORKS}; next: add framework:"),
    ],
)  # fmt: skip
def test_a_framework_that_is_not_there_is_one_fault_with_the_nearest_name(method, says):
    found = faults(MINIMAL, f"method={method}")
    assert {where: text.partition(" ")[2] for where, text in found.items()} == {"method.framework": says}
    assert found["method.framework"].startswith("job.yaml:10: ")


def test_an_unknown_step_of_a_list_names_its_place():
    found = faults(MINIMAL, "data.prepare=[{dataset: digist, into: x}]")
    assert list(found) == ["data.prepare.0.dataset"]
    assert "did you mean digits?" in found["data.prepare.0.dataset"]


def test_a_key_of_another_framework_is_refused_with_its_own_keys():
    found = faults(MINIMAL, "method={framework: byol, backbone: resnet50, queue_size_features: 8}")
    assert list(found) == ["method.queue_size_features"]
    assert "hidden_features" in found["method.queue_size_features"]
    assert "prototypes" not in found["method.queue_size_features"]


SYNCO = """\
{framework: synco, backbone: resnet50, compat: synco_v1, queue_size_features: 64,
 negatives: {hardest: 64, active_epochs: [2, 9], interpolated: 8, noise: 4, perturbed: 4}}
"""
SGD = (
    "train.optimizer={name: sgd, schedule_every: epoch, warmup_epochs: 0, learning_rate_min_base: 0, "
    "images_per_step_of_base_rate: 64, weight_decay_of: all, gradient_clip_norm: null}"
)
ADAMW = "train.optimizer={weight_decay_of: matrices_and_tokens}"
DEIT_S = "method.backbone=deit_small_patch16_224"
V2 = (
    "method.compat=synco_v2",
    "method.negatives={hardest: 128, active_epochs: [1, 3]}",
    "data.images_per_epoch=640",
)


def test_compat_fills_in_what_the_published_code_runs():
    negatives = load_text(MINIMAL, [*V2, ADAMW]).method.negatives
    assert [kind.count for kind in negatives.kinds().values()] == [128, 128, 128, 64, 64, 64]
    assert (negatives.noise.sigma, negatives.perturbed.delta, negatives.adversarial.eta) == (0.1, 0.01, 0.01)
    assert load_text(MINIMAL, [f"method={SYNCO}", SGD]).method.negatives.noise.sigma == 0.01


def test_what_a_framework_leaves_out_is_its_own_published_value():
    backbone, rates = "backbone: deit_small_patch16_224", []
    for name in ("moby", "moco_v3", "byol"):
        job = load_text(MINIMAL, [f"method={{framework: {name}, {backbone}}}"])
        rates.append(job.method.drop_path_online)
    assert rates == [0.2, 0.0, 0.1]
    pool = "negatives: {hardest: 16, noise: 4}"
    sigmas = [
        load_text(MINIMAL, [f"method={{framework: {name}, {backbone}, {pool}}}"]).method.negatives.noise.sigma
        for name in ("synco", "synby")
    ]
    assert sigmas == [0.01, 0.1]


@pytest.mark.parametrize(
    ("overrides", "where", "says"),
    [
        ([*V2, ADAMW, "method.negatives.noise=128"], "method.negatives.noise.count",
         "128, but the published code runs 64 (compat: synco_v2); allowed: 64; next: write that"),
        ([*V2, ADAMW, "method.negatives.noise={count: 64, sigma: 0.01}"], "method.negatives.noise.sigma",
         "0.01, but the published code runs 0.1"),
        (V2, "train.optimizer.weight_decay_of", "matrices, but the published code runs matrices_and_tokens"),
        ([*V2, ADAMW, "data.images_per_epoch=null"], "data.images_per_epoch", "compat synco_v2 counts its epochs"),
        ([*V2, ADAMW, DEIT_S, "method.backbone_options.num_heads=12"], "method.positions",
         "learned, but the published code runs sincos"),
        ([*V2, ADAMW, DEIT_S, "method.positions=sincos"], "method.backbone_options.num_heads",
         "6, but the published code runs 12"),
        ([*V2, ADAMW, "method.output_features=64"], "method.output_features",
         "64, but the published code runs 256 (compat: synco_v2)"),
        ([f"method={SYNCO}", SGD[:-1] + ", decay: linear}"], "train.optimizer.decay",
         "linear, but the published code runs null"),
        ([*V2, ADAMW, "method.compat_world_size=3"], "method.compat_world_size", "3 for a batch of 64"),
        ([*V2, ADAMW, "method.compat_world_size=16"], "method.negatives.active_epochs",
         "begin at epoch 1 of the published code's clock, where the run ends at 0"),
        ([*V2, ADAMW, "data.images_per_epoch=32", "method.compat_world_size=1"], "data.images_per_epoch",
         "32 is less than one step of 64 images"),
        (["method.compat_world_size=2"], "method.compat_world_size", "2 without compat"),
        ([f"method={SYNCO}"], "train.optimizer.name", "adamw, but the published code runs sgd"),
        ([f"method={SYNCO}", SGD, "method.negatives.active_epochs=[2, 8]"], "method.negatives.active_epochs",
         "the published code never ends them (compat: synco_v1); allowed: [2, 9]"),
        ([f"method={SYNCO}", SGD, "method.negatives.noise=0"], "method.negatives.perturbed.count",
         "4, but the published code runs 0"),
        ([f"method={SYNCO}", SGD, "method.negatives.perturbed=0"], "method.negatives.perturbed",
         "0 with 4 of noise: the published code crashes"),
    ],
)  # fmt: skip
def test_what_compat_would_override_is_a_fault_that_says_what_runs(overrides, where, says):
    assert says in faults(MINIMAL, *overrides)[where]


def test_a_key_given_twice_is_a_fault_not_a_silent_winner():
    assert "given twice, first on line 2" in faults(MINIMAL + "name: other\n")["name"]


def test_exponents_without_a_dot_are_numbers():
    job = load_text(MINIMAL, ["train.optimizer.learning_rate_base=1e-3", "train.optimizer.eps=1E-7"])
    assert job.train.optimizer.learning_rate_base == 1e-3
    assert job.train.optimizer.eps == 1e-7


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "kind: [unclosed\n"])
def test_text_that_is_no_mapping_is_refused(text):
    assert "(file)" in faults(text)


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(SpecError, match=r"No such file.*examples are in jobs/"):
        load_job(tmp_path / "nothing.yaml")


def test_loading_a_spec_imports_neither_torch_nor_ray():
    code = (
        "import sys; from syn2co_ray.spec.load import load_job; import syn2co_ray.cli; "
        f"load_job({str(JOBS / 'quickstart.yaml')!r}); "
        "print([m for m in ('torch', 'ray', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


GENERATE = """\
kind: generate
name: pets
seed: 0
into: out
images: 10
pipeline: {source: model}
prompts: {classes: [cat, dog]}
"""


def test_a_job_that_generates_is_read_with_its_defaults():
    job = load_text(GENERATE)
    assert (job.kind, job.images_per_shard, job.prompts.templates) == ("generate", 256, ["{name}"])


@pytest.mark.parametrize(
    ("override", "where", "says"),
    [
        ("pipelne={}", "pipelne", "did you mean pipeline?"),
        ("pipeline.stpes=3", "pipeline.stpes", "did you mean steps?"),
        ("prompts.templates=['a {nmae}']", "prompts.templates.0", "{nmae} is no field"),
        ("prompts.templates=['a {name']", "prompts.templates.0", "allowed: text with {name}"),
        ("prompts.templates=['{definition}']", "prompts.definitions.cat", "template 0 asks for it"),
        ("prompts.templates=['{background}']", "prompts.backgrounds", "empty"),
        ("prompts.classes=[]", "prompts", "neither classes nor captions"),
        ("prompts.captions={uri: x}", "prompts", "classes and captions"),
        ("classes={numbers: [1]}", "classes", "given with prompts"),
        ("pipeline.guidance=[5.0, 2.0]", "pipeline.guidance", "0 <= low <= high"),
        ("pipeline.strength=0.5", "pipeline.strength", "given without variations_of"),
        ("pipeline.revision=main", "pipeline.revision", "got 'main'"),
        ("actors={min: 3, max: 2}", "actors", "min 3 is more than max 2"),
        ("images=0", "images", "got 0"),
    ],
)
def test_faults_of_a_job_that_generates(override, where, says):
    assert says in faults(GENERATE, override)[where]
