"""Fine-tuning: learns, repeats bit for bit, and one step of it is torch's own AdamW."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from syn2co_ray.augment.views import ViewMaker
from syn2co_ray.data.decode import decode_rgb
from syn2co_ray.data.index import build_index, read_rows
from syn2co_ray.data.prepare import run_prepare
from syn2co_ray.evaluate.fine_tune import _crops, fine_tuned, predicted, rate_at, read_lesson
from syn2co_ray.evaluate.labelled import LabelledSet
from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.methods.normalise import normalise
from syn2co_ray.spec.data import DigitsStep
from syn2co_ray.spec.errors import TrainingError
from syn2co_ray.spec.evaluation import FineTuneSpec
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec
from syn2co_ray.spec.weights import WeightsSpec

OPTIONS, CPU = ObjectStoreSpec(), torch.device("cpu")
SPEC = FineTuneSpec(
    epochs=6, images_per_step=64, learning_rate=3e-3, crop_scale=(0.7, 1.0), flip_probability=0.0
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledSet, LabelledSet, torch.nn.Module]:
    """Train and eval digits, and a small random ViT."""
    folder = tmp_path_factory.mktemp("digits")
    run_prepare([DigitsStep(dataset="digits", into=str(folder))], OPTIONS, lambda line: None)
    sets = [
        LabelledSet((build_index(SourceSpec(uri=str(folder / part)), OPTIONS),), OPTIONS, 16, 10_000, 256)
        for part in ("train", "eval")
    ]
    spec: dict[str, Any] = {
        "random_seed": 0,
        "backbone": "vit_tiny_patch16_224",
        "image_size": 16,
        "patch_size": 4,
    }
    spec["backbone_options"] = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    return sets[0], sets[1], load_backbone(WeightsSpec.model_validate(spec), OPTIONS).network


def labels_of(labelled: LabelledSet) -> dict[str, int]:
    (index,) = labelled.indexes
    tables = [read_rows(index, f, None, OPTIONS, ("key", "label")) for f in range(index.num_fragments)]
    return {r["key"]: int(r["label"]) for table in tables for r in table.to_pylist()}


def test_it_repeats_itself_and_leaves_the_backbone_alone(digits):
    train, queries, network = digits
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lesson = read_lesson(train, dict(list(labels_of(train).items())[:200]))
    spec = SPEC.model_copy(update={"epochs": 2})
    losses: list[float] = []
    models = [
        fine_tuned(network, lesson, train, 10, spec, 0, CPU, lambda epoch, loss: losses.append(loss))
        for _ in range(2)
    ]
    assert losses[:2] == losses[2:]
    assert losses[0] == pytest.approx(math.log(10), abs=0.1)  # the head starts at 0
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name]), name
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert predicted(models[0], queries, CPU).keys() == labels_of(queries).keys()


@pytest.mark.slow
def test_digits_are_learned_from_all_labels(digits):
    train, queries, network = digits
    lesson = read_lesson(train, labels_of(train))
    assert len(lesson.keys) == train.indexes[0].num_records
    spec = SPEC.model_copy(update={"epochs": 40})
    model = fine_tuned(network, lesson, train, 10, spec, 0, CPU, lambda epoch, loss: None)
    by_key, truth = predicted(model, queries, CPU), labels_of(queries)
    assert sum(by_key[key] == truth[key] for key in truth) / len(truth) > 0.9


def test_a_step_is_torchs_own(digits):
    train, _, network = digits
    keys = dict(list(labels_of(train).items())[:32])
    lesson = read_lesson(train, keys)
    spec = SPEC.model_copy(update={"epochs": 1, "images_per_step": 32})
    model = fine_tuned(network, lesson, train, 10, spec, 4, CPU, lambda epoch, loss: None)
    # The head starts at 0, so the first gradient reaches it alone: softmax is even, z are the features.
    maker = ViewMaker(_crops(spec, 16), 4, "cpu")
    images = [decode_rgb(image, pixels_max=10_000) for image in lesson.images]
    views = torch.from_numpy(maker(images, lesson.keys, [0] * 32, [0] * 32)[0][:, 0].copy())
    with torch.no_grad():
        features = network(normalise(views))
    target = F.one_hot(lesson.labels, 10).float() * 0.9 + 0.01
    gradient = (0.1 - target).T @ features / 32
    step = gradient / (gradient.abs() + 1e-8)  # Adam's first step
    assert torch.allclose(model.head.weight, -3e-3 * step, atol=1e-6)


def test_the_rate_warms_up_and_goes_to_nothing():
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 1e-3
    assert rate_at(0, 1) == 1.0


def test_a_loss_that_is_not_finite_is_an_error(digits):
    train, _, network = digits
    lesson = read_lesson(train, dict(list(labels_of(train).items())[:8]))
    broken = copy.deepcopy(network)
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="lower learning_rate"):
        fine_tuned(broken, lesson, train, 10, SPEC, 0, CPU, lambda epoch, loss: None)
