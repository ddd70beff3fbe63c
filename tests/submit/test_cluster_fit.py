from __future__ import annotations

from pathlib import Path

import pytest

from syn2co_ray.spec.errors import ResourceError
from syn2co_ray.spec.load import load_job
from syn2co_ray.submit.cluster_fit import fit_lines
from tests.scripts import output_of_script
from tests.train.local_run import tiny_job

JOBS = Path(__file__).resolve().parents[2] / "jobs"
HEAD, NODE = {"CPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}
GROWS = {"types": [{"name": "gpu", "resources": {"CPU": 4, "GPU": 1}, "nodes_max": 2}], "nodes_max": 2}
TWO_GPUS = "train.workers={min: 2, max: 2, gpus_each: 1}"


def test_what_fits_is_told_in_numbers(tmp_path):
    cluster, asked = fit_lines(tiny_job(tmp_path, TWO_GPUS), [HEAD, NODE, NODE], None)
    assert cluster == "cluster: 3 node(s), 9 CPUs, 2 GPUs (1 + 1 on its nodes)"
    assert "2 GPUs for 2 workers" in asked


def test_what_never_fits_is_refused(tmp_path):
    with pytest.raises(ResourceError, match="at most the cluster's 5 CPUs and 1 GPUs"):
        fit_lines(tiny_job(tmp_path, TWO_GPUS), [HEAD, NODE], None)


def test_what_the_autoscaler_may_add_counts(tmp_path):
    cluster, asked = fit_lines(tiny_job(tmp_path, TWO_GPUS), [HEAD], GROWS)
    assert "its autoscaler may add 2 more, to 9 CPUs and 2 GPUs" in cluster
    assert "for 2 workers" in asked
    three = "train.workers={min: 4, max: 4, gpus_each: 1}"
    with pytest.raises(ResourceError):
        fit_lines(tiny_job(tmp_path, three), [HEAD], GROWS)


def test_every_step_of_a_pipeline_is_looked_at():
    job = load_job(JOBS / "quickstart.yaml")
    lines = fit_lines(job, [{"CPU": 8.0}], None)
    assert [line.split(":")[0] for line in lines] == [
        "cluster",
        "asked by quickstart-digits",
        "asked by quickstart",
    ]


def test_an_evaluation_is_asked_for_its_actors_and_for_each_kind_of_probe():
    probes = JOBS / "evaluate/probes_digits.yaml"
    lines = fit_lines(load_job(probes, ["actors={min: 1, max: 2}"]), [{"CPU": 8.0}], None)
    assert "1 to 2 actors of 1 CPUs" in lines[1]
    assert ["for 2 workers" in line for line in lines[2:]] == [True, True]
    many = "fine_tune.workers={min: 64, max: 64}"
    with pytest.raises(ResourceError):
        fit_lines(load_job(probes, ["actors={min: 1, max: 2}", many]), [{"CPU": 8.0}], None)


def test_a_search_is_counted_in_trials():
    search = load_job(JOBS / "search/digits_negatives.yaml")
    assert "trials at once" in fit_lines(search, [{"CPU": 64.0}], None)[1]


@pytest.mark.slow
@pytest.mark.ray
def test_a_training_waits_for_the_nodes_that_it_makes_the_autoscaler_add_and_gives_them_back(tmp_path):
    said = output_of_script("tests.submit.autoscaled_training", str(tmp_path), timeout_s=600)
    assert "3 nodes, 2 to come, 3 CPUs" in said
    assert "finished with at most 3 nodes" in said
    assert said.splitlines()[-1] == "1 node again"
