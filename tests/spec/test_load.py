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


def test_every_job_in_the_project_is_valid():
    found = sorted(JOBS.rglob("*.yaml"))
    assert len(found) >= 2
    for path in found:
        assert load_job(path).name == path.stem.replace("_", "-")


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
        (["method.negatives.active_epochs=[10, 20]"], "method.negatives.active_epochs", "[10, 20] with 10 epochs"),
        (["method.negatives.active_epochs=[5, 2]"], "method.negatives.active_epochs", "first <= last"),
        (["method.negatives=null"], "method.negatives", "synby without a synthesized negative"),
        (["method.framework=moby"], "method.negatives", "given with framework moby"),
        (["augment.image_size=36"], "augment.image_size", "use 32 or 40"),
        (["augment.crop_scale=[0.9, 0.2]"], "augment.crop_scale", "0 < smallest <= largest <= 1"),
        (["data.train=[{uri: a, share: 0.5}, {uri: b, share: 0.4}]"], "data.train", "shares sum to 0.9"),
        (["data.train=[{uri: a, share: 0.5}, {uri: b}]"], "data.train.1.share", "all or none"),
        (["data.images_per_epoch=10"], "data.images_per_epoch", "less than one step of 64"),
        (["data.eval_bank={uri: b}"], "data.eval_bank", "without data.eval"),
        (["data.train=[{uri: a, origin: generated}]", "data.eval={uri: b}"], "data.eval_bank", "no train source is real"),
        (["train.optimizer.warmup_epochs=10"], "train.optimizer.warmup_epochs", "10 of 10 epochs"),
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
