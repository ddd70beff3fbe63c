"""An export's spec: one source of weights, and forms that take them."""

from __future__ import annotations

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.identity import spec_hash
from syn2co_ray.spec.load import load_text

EXPORT = """\
kind: export
name: tiny
storage: exports
weights: {run: runs/tiny-1234abcd}
"""


def faults(text: str, *overrides: str) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        load_text(text, overrides)
    return {fault.where: fault.render("job.yaml") for fault in caught.value.faults}


def test_a_run_is_enough_and_execution_does_not_change_the_folder():
    job = load_text(EXPORT)
    assert job.formats == ("timm", "torch_export")
    assert spec_hash(job) == spec_hash(load_text(EXPORT, ["storage=s3://b/x", "error_max=1e-3"]))
    assert spec_hash(job) != spec_hash(load_text(EXPORT, ["weights.step=5"]))


def test_all_faults_of_weights_come_at_once():
    found = faults(EXPORT, "weights.file=w.pth", "formats=[timm, coreml]")
    assert "run and file; allowed: one of run, file, random_seed" in found["weights"]
    assert "job.yaml:4" in found["weights"]
    assert "'coreml'" in found["formats.1"]
    assert "none of them" in faults(EXPORT, "weights={}")["weights"]
    found = faults(
        EXPORT, "weights.backbone=resnet18", "weights.small_image_stem=true", "formats=[onnx, onnx]"
    )
    assert set(found) == {"weights.backbone", "weights.small_image_stem", "formats"}
    assert "the run says so itself" in found["weights.backbone"]
    found = faults(EXPORT, "weights={file: w.pth, step: 3}")
    assert set(found) == {"weights.step", "weights.backbone"}
    found = faults(
        EXPORT, "weights={random_seed: 1, backbone: resnet18, encoder: target, allow_missing: [fc.*]}"
    )
    assert set(found) == {"weights.encoder", "weights.allow_missing"}
    found = faults(EXPORT, "weights={file: w.pth, backbone: resnet18, small_image_stem: true}")
    assert "no name for; allowed: onnx, torch_export" in found["formats.0"]
