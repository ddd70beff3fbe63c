"""Nodes that come and go while a job generates: real Ray nodes on this machine, killed for real."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ..scripts import output_of_script


def generated(tmp_path: Path, mode: str, actors: dict[str, int], images: int) -> str:
    """What a job said whose cluster changed; its data set is whole."""
    job = {
        "kind": "generate",
        "name": "elastic",
        "seed": 1,
        "into": str(tmp_path / "out"),
        "images": images,
        "images_per_shard": 8,
        "images_per_batch": 4,
        "pipeline": {"source": "package:digits_ddpm", "steps": 100},
        "actors": {**actors, "cpus_each": 1},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    said = output_of_script("tests.generate.elastic_cluster", str(tmp_path / "job.yaml"), mode, timeout_s=600)
    keys = [
        key
        for file in sorted((tmp_path / "out").glob("*.parquet"))
        for key in pq.read_table(file, columns=["key"])["key"].to_pylist()
    ]
    assert [int(key.rpartition("-")[2]) for key in keys] == list(range(images))
    assert not (tmp_path / "out/_unfinished").exists()
    return said


@pytest.mark.slow
def test_a_node_that_comes_is_used(tmp_path: Path) -> None:
    said = generated(tmp_path, "grow", {"min": 1, "max": 2}, images=480)
    assert re.search(r"a node came[\s\S]* 2 actors so far", said)


@pytest.mark.slow
def test_a_node_that_goes_costs_what_it_held(tmp_path: Path) -> None:
    said = generated(tmp_path, "lose", {"min": 2, "max": 2}, images=320)
    assert "a node went, 2 shards were there" in said
    assert "320 images whole" in said


@pytest.mark.slow
def test_a_cluster_that_scales_itself_grows_to_three_nodes_and_shrinks_back(tmp_path: Path) -> None:
    said = generated(tmp_path, "autoscale", {"min": 1, "max": 3}, images=520)
    assert "at most 3 nodes" in said
    assert "1 node again" in said
