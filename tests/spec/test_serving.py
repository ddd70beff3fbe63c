"""Options of a server: all faults at once, by the names of the command's options."""

from __future__ import annotations

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.serving import serve_spec
from syn2co_ray.spec.weights import WeightsSpec

WEIGHTS = WeightsSpec(random_seed=0, backbone="resnet18")


def test_every_fault_is_named_as_its_option() -> None:
    with pytest.raises(SpecError) as refused:
        serve_spec(
            {"weights": WEIGHTS, "port": 0, "batch_wait_ms": -1.0, "replicas": {"min": 0, "cpus_each": 0.0}}
        )
    assert {fault.where for fault in refused.value.faults} == {
        *("--port", "--batch-wait-ms", "--replicas-min", "--cpus-each")
    }


def test_fewest_replicas_are_not_more_than_most() -> None:
    with pytest.raises(SpecError, match="--replicas-min: 3, and --replicas-max is 2"):
        serve_spec({"weights": WEIGHTS, "replicas": {"min": 3, "max": 2}})
    assert serve_spec({"weights": WEIGHTS}).host == "127.0.0.1"
