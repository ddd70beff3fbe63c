"""The card of an exported backbone."""

from __future__ import annotations

import dataclasses

import yaml

from syn2co_ray.report.model_card import ExportedModel, Training, model_card
from syn2co_ray.report.run_files import Provenance, Results

MODEL = ExportedModel(
    name="digits",
    backbone="resnet18",
    image_size=32,
    num_features=512,
    parameters=11_200_000,
    source="step 10 of /runs/digits-1234",
    digest="ab" * 32,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.2),
    notes=("layout: a checkpoint of this package, online encoder",),
    licence="apache-2.0",
    errors={"timm": 0.0, "torchvision": 0.0, "onnx": 2.5e-7},
)
TRAINING = Training(
    {
        "seed": 3,
        "method": {"framework": "moby"},
        "train": {"epochs": 5, "workers": {"min": 1}},
        "storage": "x",
    },
    Provenance.model_validate(
        {
            "spec_hash": "cd" * 32,
            "git_commit": "0123",
            "libraries": {"torch": "2.11"},
            "data": [{"uri": "s3://b/a|b", "records": 1408, "fingerprint": "ef" * 32}],
        }
    ),
    Results.model_validate(
        {
            "status": "finished",
            "rows": [
                {
                    "features": "trained encoder",
                    "knn_top1_percent": {"10": 81.5},
                    "linear_top1_percent": 90.25,
                }
            ],
        }
    ),
)


def test_the_card_carries_data_recipe_figures_provenance_and_use():
    card = model_card(MODEL, TRAINING)
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "timm"
    assert front["license"] == "apache-2.0"
    assert "| s3://b/a\\|b | 1,408 | " + "ef" * 32 in card
    assert "epochs: 5" in card
    assert "workers" not in card
    assert "| trained encoder | 81.50 | 90.25 |" in card
    assert "digest (SHA-256): " + "ab" * 32 in card
    assert "spec (SHA-256): " + "cd" * 32 in card
    assert "commit 0123" in card
    assert "torchvision.models.resnet18()" in card
    assert "(n, 3, 32, 32) -> (n, 512)" in card
    assert "| onnx | 2.5e-07 of the largest feature |" in card


def test_figures_of_another_step_are_not_shown_and_a_file_has_no_recipe():
    other = dataclasses.replace(TRAINING, results=None, why_no_results="the run's are of step 20")
    card = model_card(MODEL, other)
    assert "None: the run's are of step 20." in card
    assert "81.50" not in card
    card = model_card(dataclasses.replace(MODEL, licence=None), None)
    assert "license" not in card
    assert "## Recipe" not in card
    assert "## Figures" not in card
