"""Retrieval: against scikit-learn on real images, and the revisited protocol worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from syn2co_ray.evaluate.retrieval import leave_one_out_map, revisited_map
from syn2co_ray.spec.errors import DataError


def test_map_of_real_images_is_scikit_learns(pixels):
    found = leave_one_out_map(pixels.bank[:600], pixels.bank_labels[:600])
    labels = pixels.bank_labels[:600].numpy()
    similarities = cosine_similarity(pixels.bank[:600].double().numpy())
    others = ~np.eye(600, dtype=bool)
    oracle = [
        average_precision_score(labels[others[q]] == labels[q], similarities[q][others[q]])
        for q in range(600)
    ]
    # Images of equal similarity, of which there are next to none, are ranked differently.
    assert found.map_percent == pytest.approx(100 * np.mean(oracle), abs=1e-3)
    assert found.queries == 600


def test_map_by_hand():
    # By angle: query 0 sees 1 (other), 2 (same), 3 (other): 1/2. Query 2 sees 1, 0: 1/2 at place 2 as well.
    angles = torch.tensor([0.0, 10.0, 20.0, 50.0]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [3.0], [0.5], [2.0]])
    found = leave_one_out_map(features, torch.tensor([0, 1, 0, 2]))
    assert found.queries == 2
    assert found.map_percent == pytest.approx(50.0)


def test_images_without_a_partner_are_refused():
    with pytest.raises(DataError, match="no two images of one label"):
        leave_one_out_map(torch.eye(3), torch.tensor([0, 1, 2]))


def test_revisited_protocol_by_hand():
    truth = {"easy": [0], "hard": [1], "junk": [2]}
    # Medium: junk 2 is passed over, so 0 and 1 are at places 0 and 2 of [0, 3, 1, 4].
    medium = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    # Easy: 2 and 1 are passed over, 0 is first. Hard: 2 and 0 are passed over, 1 is at place 1 of [3, 1, 4].
    hard = (0 / 1 + 1 / 2) / 2
    found = revisited_map([[2, 0, 3, 1, 4]], [truth])
    assert found["easy"] == pytest.approx(100.0)
    assert found["medium"] == pytest.approx(100 * medium)
    assert found["hard"] == pytest.approx(100 * hard)


def test_revisited_queries_without_a_relevant_image_are_left_out_of_a_setups_mean():
    both = [{"easy": [0], "hard": [], "junk": []}, {"easy": [], "hard": [], "junk": [1]}]
    found = revisited_map([[0, 1], [1, 0]], both)
    assert found == {"easy": 100.0, "medium": 100.0, "hard": None}


def test_a_relevant_image_that_was_never_ranked_costs_its_recall():
    assert revisited_map([[0, 1]], [{"easy": [0, 9], "hard": [], "junk": []}])["easy"] == pytest.approx(50.0)
