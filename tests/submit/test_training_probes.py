"""Training probes of real images: against scikit-learn and a plain torch loop, on two ranks, stopped and resumed.

Here the runs' streams and loops work in this process; `end_to_end/test_training_probes` starts them on Ray.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegression
from timm.optim import param_groups_layer_decay

from syn2co_ray.data.index import build_index
from syn2co_ray.data.prepare import run_prepare
from syn2co_ray.data.subset import shards_of_keys
from syn2co_ray.evaluate.feature_shards import FeatureSet
from syn2co_ray.evaluate.measures import labelled_share
from syn2co_ray.evaluate.training_probes import begin_with_weights, check_held_out, grid_figures
from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.methods.normalise import normalise
from syn2co_ray.report.page import write_report
from syn2co_ray.spec.errors import CheckpointError, DataError, RunInterrupted
from syn2co_ray.spec.identity import run_name
from syn2co_ray.spec.probe_jobs import Probed, linear_job
from syn2co_ray.spec.source import SourceSpec
from syn2co_ray.storage import open_store
from syn2co_ray.submit.prepare import prepare_run
from syn2co_ray.train.labels import held_out

from ..train.gloo_ranks import run_ranks
from ..train.local_run import local_loop
from .local_probes import (  # noqa: F401
    UNAUGMENTED,
    LocalTraining,
    evaluated,
    evaluation,
    local_training,
    on_cifar10,
)

LINEAR = f"linear_augmented={{epochs: 2, images_per_step: 352, warmup_epochs: 1, {UNAUGMENTED}}}"
FINE_TUNE = (
    "fine_tune={shares: [0.1], epochs: 3, images_per_step: 64, learning_rate: 3e-3, layer_decay: 0.7, "
    "drop_path: 0.0, crop_scale: [0.7, 1.0], flip_probability: 0}"
)


pytestmark = pytest.mark.usefixtures("one_thread")


def features_of(folder: Path, rows: int) -> tuple[np.ndarray, list[str], list[str]]:
    """Features, labels and keys of the set with so many rows, which the evaluation has left as a shard."""
    tables = [pq.read_table(path) for path in (folder / "features").glob("*.parquet")]
    (table,) = [table for table in tables if len(table) == rows]
    return np.stack(table["embedding"].to_numpy()), table["label"].to_pylist(), table["key"].to_pylist()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def objective(
    features: np.ndarray, numbers: np.ndarray, weight: np.ndarray, bias: np.ndarray, decay: float
) -> float:
    right = softmax(features @ weight.T + bias)[np.arange(len(numbers)), numbers]
    return float(-np.log(right).mean() + decay / 2 * (weight**2).sum())


def descended(
    features: np.ndarray, numbers: np.ndarray, decay: float, peak: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Softmax regression by full batches: momentum 0.9, one epoch of warm-up from 5e-7, cosine to 5e-6 of it."""
    features, wanted = features.astype(np.float64), np.eye(10)[numbers]
    weight, bias = np.zeros((10, features.shape[1])), np.zeros(10)
    velocity, velocity_of_bias = np.zeros_like(weight), np.zeros_like(bias)
    for step in range(steps):
        error = (softmax(features @ weight.T + bias) - wanted) / len(features)
        velocity = 0.9 * velocity + error.T @ features + decay * weight
        velocity_of_bias = 0.9 * velocity_of_bias + error.sum(axis=0)
        part = 5e-7 if step == 0 else 5e-6 + (1 - 5e-6) * (1 + np.cos(np.pi * step / steps)) / 2
        weight, bias = weight - peak * part * velocity, bias - peak * part * velocity_of_bias
    return weight, bias


@pytest.fixture(params=["digits", pytest.param("cifar10", marks=pytest.mark.slow)])
def few_images(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Overrides for a bank of 20 images of each of ten classes, and 300 or more to classify."""
    if request.param == "cifar10":
        shared_dir = request.getfixturevalue("shared_dir")
        return ["weights.image_size=32", *on_cifar10(shared_dir, tmp_path, 20, 30)]
    return [
        f"data.prepare=[{{dataset: digits, into: {tmp_path}/digits}}, {{dataset: subset, source: {{uri: "
        f"{tmp_path}/digits/train}}, into: {tmp_path}/few, images_per_class: 20}}]",
        f"data.eval_bank={{uri: {tmp_path}/few}}",
    ]


def test_without_augmentation_the_final_classifier_is_scikit_learns(
    tmp_path: Path,
    local_training: LocalTraining,  # noqa: F811
    few_images: list[str],
) -> None:
    """One strictly convex problem, 200 real images: mean cross-entropy + 0.5 / 2 ||W||^2, the bias free.

    Plain gradient descent with the same rates, in float64 NumPy, gives the same weights to 1e-5. scikit-learn's
    optimum, which 100 steps come near, has weights within 1 % of the largest and a loss within 0.001 %.
    """
    decay = 0.5
    spec = evaluation(
        tmp_path,
        *few_images,
        "linear_augmented={epochs: 100, images_per_step: 200, warmup_epochs: 1, learning_rates: [0.001, 1.0], "
        f"weight_decay: {decay}, checkpoint_every_epochs: 100, {UNAUGMENTED}}}",
    )
    results, _ = evaluated(spec)
    found = results["rows"][0]["linear_augmented"]
    folder = tmp_path / "evaluations" / run_name(spec)
    features, labels, keys = features_of(folder, 200)
    asked, truth, _ = features_of(folder, results["images"]["eval"])
    oracle = LogisticRegression(C=1 / (decay * 200), tol=1e-8, max_iter=5000).fit(features, labels)
    method = local_training.loops["linear-random"].trainer.method
    weight = method.final[1].weight.detach().numpy()
    bias = method.final[1].bias.detach().numpy()
    numbers = np.array([int(label) for label in labels])
    plain_weight, plain_bias = descended(features, numbers, decay, peak=200 / 512, steps=100)
    np.testing.assert_allclose(weight, plain_weight, atol=1e-5)
    np.testing.assert_allclose(bias, plain_bias, atol=1e-5)
    np.testing.assert_allclose(weight, oracle.coef_, atol=0.01 * np.abs(oracle.coef_).max())
    optimum = objective(features, numbers, oracle.coef_, oracle.intercept_, decay)
    assert optimum - 1e-6 < objective(features, numbers, weight, bias, decay) < 1.00001 * optimum
    asked_numbers = np.array([int(label) for label in truth])
    two_images = 200 / len(truth)
    assert percent_right(method.final[1], asked, asked_numbers) == pytest.approx(
        100 * oracle.score(asked, truth), abs=two_images + 1e-9
    )
    # The rate was chosen on rows that the classifiers compared did not learn from.
    rows = held_out(keys, 0)
    assert 0.03 < rows.mean() < 0.2
    heldout = [percent_right(classifier, features[rows], numbers[rows]) for classifier in method.choosing]
    assert list(found["heldout_top1_percent_by_rate"].values()) == pytest.approx(heldout)
    chosen = int(np.argmax(heldout))
    assert found["learning_rate"] == (0.001, 1.0)[chosen]
    assert found["top1_percent"] == pytest.approx(percent_right(method.final[chosen], asked, asked_numbers))


def percent_right(classifier: Any, features: np.ndarray, numbers: np.ndarray) -> float:
    with torch.no_grad():
        return float(100 * (classifier(torch.from_numpy(features)).argmax(1).numpy() == numbers).mean())


def rank_of_linear_run(rank: int, world_size: int, group: Any, folder: Path) -> tuple[dict, dict]:
    job = _linear_run(folder)
    keys: dict[int, list[str]] = {}
    prepared = prepare_run(
        job.model_copy(update={"storage": str(folder / f"{rank}-of-{world_size}")}), lambda line: None
    )
    loop = local_loop(
        prepared, rank=rank, world_size=world_size, control_group=group, keys_seen=keys.__setitem__
    )
    loop.run_to_end()
    return loop.losses, keys  # type: ignore[attr-defined]


def _linear_run(folder: Path) -> Any:
    job = evaluation(
        folder, "linear_augmented={epochs: 2, images_per_step: 352, warmup_epochs: 0, drop_path: 0.2}"
    )
    architecture = load_backbone(job.weights, job.object_store).architecture
    names, source = tuple("0123456789"), SourceSpec(uri=f"{folder}/digits/train")
    return linear_job(job, Probed("random", architecture, 16, "0" * 64, names, source, 1408, str(folder)))


@pytest.mark.slow
def test_one_worker_and_two_learn_from_the_same_keys_with_the_same_losses(tmp_path: Path) -> None:
    _digits(tmp_path)
    ((losses_1, keys_1),) = run_ranks(rank_of_linear_run, 1, tmp_path, tmp_path)
    (losses_2, left), (_, right) = run_ranks(rank_of_linear_run, 2, tmp_path, tmp_path)
    assert len(losses_1) == len(losses_2) == 8
    assert {step: left[step] + right[step] for step in left} == keys_1
    assert losses_1[8] < losses_1[1]
    np.testing.assert_allclose(list(losses_2.values()), list(losses_1.values()), rtol=1e-5)


def _digits(folder: Path) -> None:
    job = evaluation(folder, "retrieval=true")
    run_prepare(job.data.prepare, job.object_store, lambda line: None)


def test_fine_tuning_is_a_plain_torch_loop_and_stops_and_resumes_exactly(
    tmp_path: Path,
    local_training: LocalTraining,  # noqa: F811
) -> None:
    spec = evaluation(tmp_path, FINE_TUNE)
    local_training.stop_before_step = 5
    with pytest.raises(RunInterrupted, match=r"stopped after step 5 of 9.*run the same command to resume"):
        evaluated(spec)
    name = "fine-tune-0.1-random"
    first = local_training.loops[name].losses
    local_training.stop_before_step = None
    results, text = evaluated(spec)
    resumed = local_training.loops[name]
    assert resumed.resumed_from_steps == [5]
    loop, seen = run_again(resumed.job, tmp_path / "straight")
    assert {**first, **resumed.losses} == loop.losses
    method = loop.trainer.method
    assert all(
        torch.equal(tensor, resumed.trainer.method.state_dict()[name])
        for name, tensor in method.state_dict().items()
    )
    check_same_weights(method, plainly_fine_tuned(spec, seen))
    # What it learned from: the same tenth of the labels that `label_shares` takes.
    figures = results["rows"][0]["fine_tune"]["0.1"]
    copied = build_index(SourceSpec(uri=f"{resumed.job.storage}/labels-0.1"), spec.object_store)
    folder = tmp_path / "evaluations" / run_name(spec)
    labels = torch.tensor([int(label) for label in features_of(folder, 1408)[1]])
    assert figures["images"] == copied.num_records == len(labelled_share(labels, 0.1, 0))
    assert figures["images_classified"] == 389
    again, text = evaluated(spec)
    assert again == results
    assert "fine-tuned, 10 % top-1 %" in text


def test_fine_tuning_on_all_labels_is_a_plain_torch_loop_whose_accuracy_is_the_figure(
    tmp_path: Path,
    local_training: LocalTraining,  # noqa: F811
    few_images: list[str],
) -> None:
    spec = evaluation(tmp_path, *few_images, FINE_TUNE.replace("0.1", "1.0"))
    results, text = evaluated(spec)
    figures = results["rows"][0]["fine_tune"]["1"]
    assert figures["images"] == 200
    assert figures["images_classified"] == results["images"]["eval"]
    assert "fine-tuned, 100 % top-1 %" in text
    job = local_training.loops["fine-tune-1-random"].job
    assert job.data.train[0].uri == spec.data.eval_bank.uri
    loop, seen = run_again(job, tmp_path / "again")
    assert len(seen) == 12
    plain = plainly_fine_tuned(spec, seen)
    check_same_weights(loop.trainer.method, plain)
    # Of networks whose weights differ by 1e-4, two images may fall to the other side.
    percent, images = plain_percent(plain, spec)
    assert figures["top1_percent"] == pytest.approx(percent, abs=200 / images + 1e-9)


def run_again(job: Any, storage: Path) -> tuple[Any, list[tuple[Any, Any]]]:
    """A probe from its beginning: its loop, and views and classes of each step."""
    prepared = prepare_run(job.model_copy(update={"storage": str(storage)}), print)
    seen: list[tuple[Any, Any]] = []
    loop = local_loop(prepared, begin=lambda method: begin_with_weights(job, method))
    records = loop.context.records

    def watched(first_step: int) -> Any:
        for step in records(first_step):
            seen.append((step.views[0][:, 0].copy(), [int(label) for label in step.labels]))
            yield step

    loop.context.records = watched
    loop.run_to_end()
    return loop, seen


def check_same_weights(method: Any, plain: torch.nn.Module) -> None:
    """Ours and the plain model's, to 1e-4 + 0.1 %."""
    for name, tensor in plain.state_dict().items():
        if name.endswith("qkv.bias"):
            continue  # a bias of all keys changes nothing: Adam makes steps of its gradient's rounding
        ours = name.replace("head.", "classifier.") if name.startswith("head.") else f"encoder.{name}"
        torch.testing.assert_close(method.state_dict()[ours], tensor, rtol=1e-3, atol=1e-4)


def plain_percent(model: torch.nn.Module, spec: Any) -> tuple[float, int]:
    """Top-1 on the evaluation images as Pillow reads and shrinks or enlarges them, and how many these are."""
    rows = pa.concat_tables([pq.read_table(path) for path in Path(spec.data.eval.uri).glob("*.parquet")])
    size = (spec.weights.image_size, spec.weights.image_size)
    images = [Image.open(io.BytesIO(image)).convert("RGB") for image in rows["image"].to_pylist()]
    pixels = np.stack([np.asarray(image.resize(size, Image.Resampling.BILINEAR)) for image in images])
    with torch.no_grad():
        found = model.eval()(normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))).argmax(1)
    right = found == torch.tensor([int(label) for label in rows["label"].to_pylist()])
    return 100 * float(right.double().mean()), len(right)


def plainly_fine_tuned(spec: Any, steps: list[tuple[Any, Any]]) -> torch.nn.Module:
    """timm's model with its own head, timm's layer-wise groups, torch's AdamW and a cosine by hand."""
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 10}
    size = spec.weights.image_size
    model = timm.create_model("vit_tiny_patch16_224", img_size=size, patch_size=8, **options)
    start = load_backbone(spec.weights, spec.object_store).network.state_dict()
    model.load_state_dict({**model.state_dict(), **start})
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.7)
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    total, warmup = len(steps), len(steps) / 10
    for number, (views, labels) in enumerate(steps):
        rate = (
            number / warmup
            if number < warmup
            else 0.5 + 0.5 * np.cos(np.pi * (number - warmup) / (total - warmup))
        )
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * rate * group["lr_scale"]
        logits = model(normalise(torch.from_numpy(views)))
        loss = F.cross_entropy(logits, torch.tensor(labels), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_what_is_finished_is_not_trained_again_and_the_page_shows_it(
    tmp_path: Path,
    local_training: LocalTraining,  # noqa: F811
) -> None:
    both = FINE_TUNE.replace("epochs: 3", "epochs: 1, warmup_epochs: 0")
    spec = evaluation(tmp_path, LINEAR, both)
    results, text = evaluated(spec)
    assert set(local_training.loops) == {"linear-random", "fine-tune-0.1-random"}
    folder = tmp_path / "evaluations" / run_name(spec)
    page = (folder / "report.html").read_text()
    assert "<h2>Linear probe with augmentation</h2>" in page
    assert "<h2>Fine-tuning</h2>" in page
    assert "linear, augmented top-1 %" in text
    assert (folder / "probes" / results["rows"][0]["linear_augmented"]["run"] / "spec.yaml").is_file()
    run = results["rows"][0]["fine_tune"]["0.1"]["run"]
    own_page = Path(write_report(open_store(f"{folder}/probes/{run}", spec.object_store)))
    assert "fine-tune-0.1-random" in own_page.read_text()
    # As if the driver had been killed between the last probe and the results.
    (folder / "results.json").unlink()
    local_training.loops.clear()
    again, text = evaluated(spec)
    assert local_training.loops == {}
    assert again["rows"] == results["rows"]
    assert text.count("trained before: ") == 2
    # Another backbone's tensors in the file are found out by their digest.
    (file,) = (folder / "probes").glob("backbone-*.safetensors")
    loop_job = local_job(spec, folder)
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    prepared = prepare_run(loop_job.model_copy(update={"seed": 9}), lambda line: None)
    loop = local_loop(prepared, begin=lambda method: begin_with_weights(loop_job, method))
    with pytest.raises(CheckpointError, match="the backbone that is measured"):
        loop.run_to_end()


def local_job(spec: Any, folder: Path) -> Any:
    loaded = load_backbone(spec.weights, spec.object_store)
    source = spec.data.eval_bank
    names = tuple("0123456789")
    about = Probed("random", loaded.architecture, 16, loaded.digest, names, source, 1408, f"{folder}/probes")
    return linear_job(spec, about)


def feature_set(features: torch.Tensor, keys: list[str]) -> FeatureSet:
    return FeatureSet(keys, ["a"] * len(keys), [b""] * len(keys), features, [])


def test_the_rate_is_chosen_on_held_out_rows_and_the_best_on_eval_is_named_as_such() -> None:
    """Hand-made: on held-out rows the small rate is right, on the evaluation images the large one."""
    keys = [f"key {number}" for number in range(200)]
    rows = torch.from_numpy(held_out(keys, 0))
    features = torch.tensor([[1.0, 0.0]]).repeat(200, 1)
    features[~rows] = -features[~rows]
    good, bad = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    tensors = {f"{role}.{number}.bias": torch.zeros(2) for role in ("choosing", "final") for number in (0, 1)}
    tensors |= {"choosing.0.weight": good, "choosing.1.weight": bad}
    tensors |= {"final.0.weight": bad, "final.1.weight": good}
    queries = feature_set(torch.tensor([[1.0, 0.0]] * 4), list("abcd"))
    zeros = torch.zeros(200, dtype=torch.int64)
    found = grid_figures(tensors, (0.5, 2.0), feature_set(features, keys), zeros, queries, zeros[:4], 0)
    assert found["learning_rate"] == 0.5
    assert found["top1_percent"] == 0.0
    assert found["heldout_top1_percent_by_rate"] == {"0.5": 100.0, "2": 0.0}
    assert found["best_on_eval"] == {"top1_percent": 100.0, "learning_rate": 2.0}


def test_a_bank_too_small_to_choose_with_is_refused() -> None:
    keys = [key for key in map(str, range(100)) if not held_out([key], 0)[0]][:5]
    with pytest.raises(DataError, match="0 of 5 images are held out"):
        check_held_out(feature_set(torch.zeros(5, 2), keys), 0)


def test_the_images_of_some_keys_are_copied_as_they_are_in_an_order_of_their_own(tmp_path: Path) -> None:
    _digits(tmp_path)
    job = evaluation(tmp_path, "retrieval=true")
    index = build_index(job.data.eval_bank, job.object_store)
    there = pa.concat_tables([pq.read_table(path) for path in Path(job.data.eval_bank.uri).glob("*.parquet")])
    wanted = there["key"].to_pylist()[::40]
    shards = list(shards_of_keys(index, [*wanted, "no such key"], job.object_store))
    copied = pa.concat_tables([pq.read_table(io.BytesIO(data)) for _, _, data in shards])
    assert sorted(copied["key"].to_pylist()) == sorted(wanted) != copied["key"].to_pylist()
    assert (
        copied.sort_by("key")
        .select(["image", "label"])
        .equals(
            there.filter(pc.is_in(there["key"], pa.array(wanted))).sort_by("key").select(["image", "label"])
        )
    )


SHORT_LINEAR = (
    "linear_augmented={epochs: 2, images_per_step: 100, warmup_epochs: 1, learning_rates: [0.1], "
    f"checkpoint_every_epochs: 1, {UNAUGMENTED}}}"
)


def _few(folder: Path) -> tuple[str, str]:
    """A bank of 200 digits."""
    source = f"source: {{uri: {folder}/digits/train}}, into: {folder}/few, images_per_class: 20"
    prepare = f"[{{dataset: digits, into: {folder}/digits}}, {{dataset: subset, {source}}}]"
    return f"data.prepare={prepare}", f"data.eval_bank={{uri: {folder}/few}}"


@pytest.mark.slow
def test_probes_learn_from_the_images_that_features_were_made_of(
    tmp_path: Path,
    local_training: LocalTraining,  # noqa: F811
) -> None:
    whole = FINE_TUNE.replace("[0.1], epochs: 3, images_per_step: 64", "[1], epochs: 1, images_per_step: 100")
    whole = whole.replace("drop_path", "warmup_epochs: 0, drop_path")
    spec = evaluation(tmp_path, *_few(tmp_path), SHORT_LINEAR, whole)
    local_training.stop_before_step = 1
    with pytest.raises(RunInterrupted):
        evaluated(spec)
    shutil.copy(next((tmp_path / "few").glob("*.parquet")), tmp_path / "few/added.parquet")
    local_training.stop_before_step = None
    results, _ = evaluated(spec)
    assert results["images"]["eval_bank"] == 200
    assert results["rows"][0]["fine_tune"]["1"]["images"] == 200


@pytest.mark.slow
def test_a_damaged_final_checkpoint_gives_no_figures_of_an_earlier_one(
    tmp_path: Path,
    local_training: LocalTraining,  # noqa: F811
) -> None:
    spec = evaluation(tmp_path, *_few(tmp_path), SHORT_LINEAR)
    results, _ = evaluated(spec)
    folder = tmp_path / "evaluations" / run_name(spec)
    run = folder / "probes" / results["rows"][0]["linear_augmented"]["run"]
    (folder / "results.json").unlink()
    older, newest = sorted((run / "checkpoints").iterdir())
    (newest / "method.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"step 2 as the newest.*method.safetensors.*that of step 4.*delete this"
    ):
        evaluated(spec)
    for file in (older / "MANIFEST.json", newest / "MANIFEST.json"):
        file.unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint of a finished probe"):
        evaluated(spec)
