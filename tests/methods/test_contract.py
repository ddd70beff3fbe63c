from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from syn2co_ray.methods import StepContext, build_method
from syn2co_ray.spec.errors import Syn2coError
from syn2co_ray.spec.method import MobySpec


def test_loss_scale_of_one_rank_is_the_mean(step_at: Callable[..., StepContext]) -> None:
    assert step_at().loss_scale(6) == 1 / 6


@pytest.mark.parametrize(
    ("first_row", "rows"), [(0, 5), (0, 7), (0, 0), (1, 5), (-1, 6), (3, 6)], ids=lambda value: str(value)
)
def test_rows_that_are_not_the_global_batch_are_refused(
    step_at: Callable[..., StepContext], first_row: int, rows: int
) -> None:
    with pytest.raises(Syn2coError, match=r"train\.images_per_step_global") as caught:
        step_at(first_row=first_row).loss_scale(rows)
    assert f"rows {first_row} to {first_row + rows}" in str(caught.value)


def test_features_are_those_of_eval_mode_and_the_mode_is_restored(
    tiny_spec: Callable[..., MobySpec], views: list[torch.Tensor]
) -> None:
    method = build_method(tiny_spec(), 32, 0)
    features = method.features(views[0])
    assert method.encoder.training
    assert not features.requires_grad
    with torch.no_grad():
        expected = method.encoder.eval()(views[0])
    assert torch.equal(features, expected)
    assert not method.features(views[0]).requires_grad
    assert not method.encoder.training
    with torch.autocast("cpu", torch.bfloat16):
        assert method.features(views[0]).dtype == torch.float32
