"""`detection:` of an evaluation, from the job to the page."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from syn2co_ray.report.detection_tables import detection_lines
from syn2co_ray.report.protocols import figures_of
from syn2co_ray.report.run_files import ResultRow
from syn2co_ray.spec.errors import ResourceError, SpecError
from syn2co_ray.spec.identity import run_name
from syn2co_ray.spec.load import load_text
from syn2co_ray.submit.cluster import Cluster
from syn2co_ray.submit.detection_workers import choose_detection_workers
from syn2co_ray.submit.evaluate import run_evaluate

from ..evaluate.detection.drawn import write_coco


def job_text(tmp_path: Path) -> str:
    """A detector on a random ViT that learns from three drawn images and is measured on two."""
    train = write_coco(tmp_path / "train", "a", range(3))
    held_out = write_coco(tmp_path / "eval", "b", range(10, 12))
    return (
        f"kind: evaluate\nname: shapes\nstorage: {tmp_path}/runs\n"
        "weights: {random_seed: 1, backbone: vit_tiny_patch16_224, image_size: 32, "
        "backbone_options: {embed_dim: 32, depth: 2, num_heads: 2}}\n"
        "knn: null\nlinear: null\n"
        "detection:\n"
        f"  train: {{annotations: {train.annotations}, images: {train.images}}}\n"
        f"  eval: {{annotations: {held_out.annotations}, images: {held_out.images}}}\n"
        "  masks: true\n  channels: 32\n  image_size: 96\n  anchor_size_smallest: 8\n"
        "  proposals_per_image: 20\n  regions_per_image: 16\n  epochs: 2\n  images_per_step: 2\n"
        "  learning_rate: 0.001\n  reader_threads: 1\n"
        "  workers: {min: 2, max: 2, cpus_each: 0.5}\n"
    )


def job(tmp_path: Path, *overrides: str) -> Any:
    return load_text(job_text(tmp_path), overrides)


def leak(tmp_path: Path) -> None:
    """A training image also stands in the evaluation set."""
    (tmp_path / "eval/images/11.png").write_bytes((tmp_path / "train/images/1.png").read_bytes())


def said(spec: Any) -> tuple[dict[str, Any], str]:
    out = io.StringIO()
    return run_evaluate(spec, Console(file=out, width=300)), out.getvalue()


@pytest.mark.ray
def test_a_job_ends_in_figures_a_sheet_and_a_page(tmp_path: Path, ray_cluster: Any) -> None:
    spec = job(tmp_path)
    leak(tmp_path)
    results, text = said(spec)
    folder = tmp_path / "runs" / run_name(spec)
    assert "detection, random encoder: 2 worker(s)" in text
    assert "detection, random encoder: box AP " in text
    (row,) = results["detection"]["rows"]
    assert (row["features"], row["neck"], row["steps"]) == ("random encoder", "simple_pyramid", 4)
    assert row["workers"] == 2
    assert set(row["box"]["by_category"]) == set(row["mask"]["by_category"]) == {"disc", "square"}
    assert results["warnings"] == ["1 of 2 images of detection.eval also stand in detection.train"]
    assert "warning: 1 of 2 images" in text
    assert detection_lines(results)[0] in text
    assert "linear" not in text
    (line,) = results["rows"]
    assert figures_of(ResultRow.model_validate(line))["box AP50"] == row["box"]["ap50"]
    assert (folder / "detection.jpg").read_bytes().startswith(b"\xff\xd8")
    page = (folder / "report.html").read_text()
    for words in ("Detection, boxes", "Detection, masks, by category", "What was found"):
        assert f"<h2>{words}</h2>" in page
    assert "data:image/jpeg;base64," in page
    made = json.loads((folder / "provenance.json").read_text())
    assert [one["records"] for one in made["detection"]] == [3, 2]
    # What a network was found worth stays when the rest of the evaluation is gone.
    (folder / "results.json").unlink()
    sheet = (folder / "detection.jpg").read_bytes()
    again, text = said(spec)
    assert again["detection"] == results["detection"]
    assert (folder / "detection.jpg").read_bytes() == sheet
    assert "worker(s)" not in text


def test_more_workers_than_images_a_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"detection.workers: 3 workers for 2 images a step"):
        job(tmp_path, "detection.workers=3")
    with pytest.raises(SpecError, match=r"detection.workers.gpus_each: 0.5 with 2 workers"):
        job(tmp_path, "detection.workers={min: 2, max: 2, gpus_each: 0.5}")


def test_workers_that_the_cluster_cannot_hold_are_refused(tmp_path: Path) -> None:
    spec = job(tmp_path, "detection.workers={min: 1, max: 2, cpus_each: 3}")
    assert choose_detection_workers(spec.detection, Cluster(6.0, (0.0,), True)) == 2
    assert choose_detection_workers(spec.detection, Cluster(5.0, (0.0,), True)) == 1
    with pytest.raises(ResourceError, match=r"detection.workers: 1 workers of 3 CPUs"):
        choose_detection_workers(spec.detection, Cluster(2.0, (0.0,), True))


def test_a_missing_library_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.coco", None)
    with pytest.raises(ResourceError, match=r"pip install 'syn2co_ray\[detect\]'"):
        said(job(tmp_path))
