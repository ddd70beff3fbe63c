"""Evaluations in the table: one row with the training they measured, and nothing unlike in one figure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from syn2co_ray.report.published import IMAGENET_1K_IMAGES
from syn2co_ray.report.results_formats import as_csv, as_text, cells
from syn2co_ray.report.results_table import ResultsTable
from syn2co_ray.spec.identity import resolved
from syn2co_ray.spec.load import load_job

from .conftest import PROVENANCE, RunFolder
from .evaluations import BANK, EVAL, FEW_SHOT, make_evaluation
from .test_published import RECIPES
from .test_results_table import make_run, table_of

MEASURED = {"evaluated_on": [BANK, EVAL]}


def few_shot(percent: float) -> dict[str, Any]:
    return {"few_shot": {"5": {"top1_percent": percent}}}


def training(folder: Path, seed: int = 0, **changes: Any) -> RunFolder:
    spec = changes.pop("spec", {}) | {"seed": seed}
    return make_run(folder, spec=spec, provenance=MEASURED | changes.pop("provenance", {}), **changes)


def shown(table: ResultsTable) -> list[tuple[tuple[int, ...], list[str]]]:
    """Seeds and protocols of each row."""
    return [(row.seeds, list(row.figures)) for row in table.rows]


def test_evaluations_of_three_seeds_are_one_row_without_the_trainings_folders(tmp_path: Path) -> None:
    for seed, percent in enumerate((80.0, 81.0, 83.0)):
        run = training(tmp_path / f"digits-{seed}", seed)
        make_evaluation(tmp_path / f"eval-{seed}", run, few_shot(percent), few_shot={})
        shutil.rmtree(run.path)
    table = table_of(tmp_path)
    (row,) = table.rows
    assert row.seeds == (0, 1, 2)
    found = row.figures["5-shot"]
    assert (found.mean, found.deviation, found.n) == (mean((80, 81, 83)), stdev((80, 81, 83)), 3)
    assert (row.name, row.framework) == ("digits (eval-0, eval-1, eval-2)", "moby")
    assert (row.backbone, row.data, row.epochs) == (
        "deit_small_patch16_224",
        "imagenet/train",
        "300",
    )
    assert row.measured_on == "imagenet/val ef56ab78"
    assert row.hours is not None
    assert (row.hours.hours, row.hours.unit) == (18 * 100.0 * 2 / 3600, "GPU-hours")
    assert row.commits == ("01234567", "fedcba98")
    assert row.data_hash == "ab12cd34"
    assert not table.left_out
    assert "imagenet/val ef56ab78" in as_text(table)


def test_a_training_and_its_evaluations_are_one_row(tmp_path: Path) -> None:
    for seed in range(3):
        run = training(tmp_path / f"digits-{seed}", seed)
        make_evaluation(tmp_path / f"a-{seed}", run, few_shot(80.0 + seed), few_shot={})
    table = table_of(tmp_path)
    (row,) = table.rows
    assert row.name == "digits"
    assert len(row.runs) == 6
    assert list(row.figures) == ["k-NN k=10", "k-NN k=200", "linear", "5-shot"]
    assert {figure.n for figure in row.figures.values()} == {3}
    assert table.protocols == ("k-NN k=10", "k-NN k=200", "linear", "5-shot")
    assert not table.left_out


def test_an_evaluation_that_measures_the_same_again_is_named_below(tmp_path: Path) -> None:
    run = training(tmp_path / "digits")
    make_evaluation(tmp_path / "again", run, linear=None)
    (left,) = table_of(tmp_path).left_out
    assert (left.uri, left.reason) == (
        str(tmp_path / "again"),
        f"repeats seed 0 of {tmp_path / 'digits'}, which is in the table",
    )


def test_other_images_and_other_settings_are_never_in_one_figure(tmp_path: Path) -> None:
    flowers = (BANK | {"uri": "s3://b/flowers/train", "fingerprint": "1111"},)
    flowers += (EVAL | {"uri": "s3://b/flowers/test", "fingerprint": "22223333444"},)
    for seed in (0, 1):
        run = training(tmp_path / f"t-{seed}", seed)
        make_evaluation(tmp_path / f"transfer-{seed}", run, FEW_SHOT, images=flowers, few_shot={})
        make_evaluation(
            tmp_path / f"warm-{seed}", run, FEW_SHOT, knn={"temperature": 0.1}, linear=None, few_shot={}
        )
    table = table_of(tmp_path)
    knn = ["k-NN k=10", "k-NN k=200"]
    assert shown(table) == [
        ((0, 1), [*knn, "linear", "5-shot"]),
        ((0, 1), [*knn, "5-shot"]),
        ((0, 1), knn),
    ]
    assert [row.measured_on for row in table.rows] == [
        "imagenet/val ef56ab78",
        "flowers/test 22223333",
        "imagenet/val ef56ab78",
    ]
    assert table.rows[2].name == "digits (warm-0, warm-1)"
    assert "measured on" in cells(table)[0]


def test_a_probe_of_other_settings_is_not_the_trainings(tmp_path: Path) -> None:
    run = training(tmp_path / "digits")
    make_evaluation(tmp_path / "same", run, {"linear_top1_percent": 70.0} | FEW_SHOT, few_shot={})
    other = make_evaluation(
        tmp_path / "longer", run, {"linear_top1_percent": 72.0}, knn=None, linear={"epochs": 200}
    )
    results = json.loads((other.path / "results.json").read_text())
    results["rows"] = [{**results["rows"][0], "knn_top1_percent": {}}]
    other.write("results.json", results)
    table = table_of(tmp_path)
    assert shown(table) == [((0,), ["k-NN k=10", "k-NN k=200", "linear", "5-shot"]), ((0,), ["linear"])]
    assert [row.figures["linear"].mean for row in table.rows] == [70.0, 72.0]


@pytest.mark.parametrize("change", [{"step": 50}, {"encoder": "target"}, {"weights": {"image_size": 384}}])
def test_other_weights_of_a_training_are_rows_of_their_own(tmp_path: Path, change: dict[str, Any]) -> None:
    run = training(tmp_path / "digits")
    if "weights" in change:
        change = {"weights": {"run": run.store.uri, **change["weights"]}}
    make_evaluation(tmp_path / "other", run, FEW_SHOT, few_shot={}, **change)
    first, second = table_of(tmp_path).rows
    assert (first.framework, first.backbone, first.epochs) == ("moby", "deit_small_patch16_224", "300")
    assert (second.framework, second.backbone, second.epochs) == (
        "moby (target encoder)" if "encoder" in change else "moby",
        "deit_small_patch16_224 (image_size 384)" if "weights" in change else "deit_small_patch16_224",
        "300, at step 50" if "step" in change else "300",
    )


def test_hours_of_a_checkpoint_end_at_its_step(tmp_path: Path) -> None:
    run = training(tmp_path / "digits")
    make_evaluation(tmp_path / "early", run, FEW_SHOT, step=9, few_shot={})
    shutil.rmtree(run.path)
    (row,) = table_of(tmp_path).rows
    assert row.hours is not None
    assert row.hours.hours == 9 * 100.0 * 2 / 3600


SMALL = {"backbone": "vit_tiny_patch16_224", "patch_size": 8, "image_size": 32}


def test_random_weights_of_several_seeds_are_one_row(tmp_path: Path) -> None:
    for seed in (3, 4):
        make_evaluation(tmp_path / f"r-{seed}", weights={"random_seed": seed, **SMALL}, few_shot={})
    (row,) = table_of(tmp_path).rows
    assert row.seeds == (3, 4)
    assert row.features == "random encoder"
    assert (row.name, row.framework) == ("random (r-3, r-4)", "random")
    assert row.backbone == "vit_tiny_patch16_224 (patch_size 8, image_size 32)"
    assert row.hours is None


def test_published_weights_have_a_row_named_by_their_file(tmp_path: Path) -> None:
    for name in ("dino", "moco"):
        weights = {"file": f"s3://b/{name}.pth", "backbone": "resnet50"}
        folder = make_evaluation(tmp_path / f"{name}-r50", weights=weights)
        made = json.loads((folder.path / "provenance.json").read_text())
        made["weights"]["digest"] = name
        folder.write("provenance.json", made)
    table = table_of(tmp_path)
    assert [(row.name, row.framework, row.backbone) for row in table.rows] == [
        ("dino.pth (dino-r50)", "weights of a file", "resnet50"),
        ("moco.pth (moco-r50)", "weights of a file", "resnet50"),
    ]


def test_an_old_folder_that_does_not_know_its_training_is_still_a_row(tmp_path: Path) -> None:
    run = training(tmp_path / "digits-1234abcd")
    old = make_evaluation(tmp_path / "old", run, FEW_SHOT, few_shot={})
    made = json.loads((old.path / "provenance.json").read_text())
    del made["weights"]["training"]
    old.write("provenance.json", made)
    table = table_of(tmp_path)
    assert [(row.name, row.framework) for row in table.rows] == [
        ("digits", "moby"),
        ("digits-1234abcd (old)", "weights of a run"),
    ]
    (tmp_path / "old" / "provenance.json").unlink()
    assert len(table_of(tmp_path).rows) == 2


def test_a_training_that_has_not_recorded_its_images_joins_its_repeats(tmp_path: Path) -> None:
    """Folders of before: the spec names the same images."""
    make_run(tmp_path / "before", spec={"seed": 1})
    run = training(tmp_path / "now")
    make_evaluation(tmp_path / "eval", run, FEW_SHOT, few_shot={})
    (row,) = table_of(tmp_path).rows
    assert (row.seeds, row.figures["linear"].n, row.figures["5-shot"].n) == ((0, 1), 2, 1)


# Published figures beside evaluations.

IMAGENET = (BANK | {"records": IMAGENET_1K_IMAGES}, EVAL | {"records": 50_000})


def synco(folder: Path, epochs: int) -> RunFolder:
    """A finished training of the shipped recipe, on ImageNet-1k by its number of images."""
    spec = resolved(load_job(str(RECIPES / f"synco_r50_{epochs}.yaml"), ()))
    data = [PROVENANCE["data"][0] | {"records": IMAGENET_1K_IMAGES}]
    return training(folder, spec=spec, provenance={"data": data, "evaluated_on": list(IMAGENET)})


def fine_tuned(low: float, high: float) -> dict[str, Any]:
    return {"fine_tune": {"0.01": {"top1_percent": low}, "0.1": {"top1_percent": high}}}


def test_semi_supervised_figures_stand_beside_ours(tmp_path: Path) -> None:
    run = synco(tmp_path / "synco", 800)
    make_evaluation(tmp_path / "few-labels", run, fine_tuned(48.0, 65.0), images=IMAGENET, fine_tune={})
    table = table_of(tmp_path)
    header, line = cells(table)
    found = dict(zip(header, line, strict=True))
    assert header.index("published fine-tuned, 1 %") == header.index("fine-tuned, 1 %") + 1
    assert (found["fine-tuned, 1 %"], found["published fine-tuned, 1 %"]) == ("48.00", "50.8")
    assert (found["fine-tuned, 10 %"], found["published fine-tuned, 10 %"]) == ("65.00", "66.6")
    assert found["published linear"] == "70.7"
    assert "published fine-tuned, 1 %" in as_csv(table).splitlines()[0]


def test_figures_on_other_images_have_no_published_one_beside_them(tmp_path: Path) -> None:
    run = synco(tmp_path / "synco", 800)
    subset = (IMAGENET[0] | {"records": 126_689, "fingerprint": "11"}, IMAGENET[1] | {"records": 5_000})
    make_evaluation(tmp_path / "subset", run, fine_tuned(48.0, 65.0), images=subset, fine_tune={})
    own, other = table_of(tmp_path).rows
    assert list(own.published) == ["linear"]
    assert not other.published


SETS = {"voc": (16_551, 4_952), "coco": (117_266, 5_000), "pets": (2_000, 5_000)}
AP = {"box_ap_percent": 56.0, "box_ap50_percent": 81.0}


def detection(folder: Path, run: RunFolder, name: str, **settings: Any) -> None:
    """An evaluation by detectors alone."""
    section = {
        part: {"annotations": f"s3://b/{name}/{part}.json", "images": f"s3://b/{name}"}
        for part in ("train", "eval")
    }
    row = {"detection": AP | ({"mask_ap_percent": 34.0} if settings.get("masks") else {})}
    made = make_evaluation(
        folder, run, row, images=(), knn=None, linear=None, detection={**section, **settings}
    )
    known = json.loads((made.path / "provenance.json").read_text())
    known["detection"] = [
        {"uri": section[part]["annotations"], "fingerprint": f"{name}{part}", "records": count}
        for part, count in zip(("train", "eval"), SETS[name], strict=True)
    ]
    made.write("provenance.json", known)


def test_detection_sets_are_rows_with_their_own_published_figures(tmp_path: Path) -> None:
    run = synco(tmp_path / "synco", 200)
    detection(tmp_path / "a-voc", run, "voc", neck="c4")
    detection(tmp_path / "b-coco", run, "coco", neck="c4", masks=True)
    detection(tmp_path / "c-pets", run, "pets", neck="c4")
    table = table_of(tmp_path)
    assert [{name: each.figure for name, each in row.published.items()} for row in table.rows] == [
        {"linear": "67.9 to 68.1", "box AP": "57.2", "box AP50": "82.5"},
        {"box AP": "40.9", "mask AP": "35.5"},
        {},
    ]
    assert table.rows[0].measured_on == "imagenet/val ef56ab78, voc/eval.json voceval"
    assert table.rows[1].name == "synco-r50-200 (b-coco)"


def test_another_detector_than_the_papers_has_no_published_figure(tmp_path: Path) -> None:
    detection(tmp_path / "voc", synco(tmp_path / "synco", 200), "voc", neck="fpn")
    (row,) = table_of(tmp_path).rows
    assert "box AP" in row.figures
    assert list(row.published) == ["linear"]
