"""Layer-wise rates are those that timm's own optimizer groups have."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from syn2co_ray.methods.fine_tune import layer_factors
from syn2co_ray.spec.errors import SpecError


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet18"])
def test_factors_are_those_of_timm_for_the_model_with_its_classifier(name):
    with torch.device("meta"):
        whole, backbone = timm.create_model(name, num_classes=5), timm.create_model(name, num_classes=0)
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    expected = {
        names[id(parameter)]: group["lr_scale"]
        for group in param_groups_layer_decay(whole, layer_decay=0.7)
        for parameter in group["params"]
    }
    factors = layer_factors(backbone, 0.7)
    assert set(expected) - set(factors) == {n for n in expected if n.startswith(("head.", "fc."))}
    assert factors == pytest.approx({name: expected[name] for name in factors})
    assert max(factors.values()) == pytest.approx(0.7)


def test_a_backbone_without_known_layers_is_refused():
    with pytest.raises(SpecError, match=r"fine_tune\.layer_decay: 0\.5, but Linear does not say"):
        layer_factors(torch.nn.Linear(2, 2), 0.5)
