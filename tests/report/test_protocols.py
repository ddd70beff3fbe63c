"""Every protocol of `kind: evaluate` has columns, named and ordered for a reader; nothing else is one."""

from __future__ import annotations

from typing import Any

import pytest

from syn2co_ray.report.protocols import (
    SECTIONS,
    family,
    figures_beside_rows,
    figures_by_section,
    figures_of,
    in_order,
)
from syn2co_ray.report.run_files import ResultRow, Results
from syn2co_ray.spec.evaluation import EvaluateJobSpec

ROW: dict[str, Any] = {
    "features": "trained encoder",
    "detection": {"box_ap_percent": 30.0, "box_ap50_percent": 50.0, "mask_ap_percent": 25.0},
    "video_segmentation": {"jf_mean_percent": 60.0, "j_mean_percent": 59.0, "f_mean_percent": 61.0}
    | {"j_recall_percent": 70.0, "f_decay_percent": 20.0},
    "landmarks": {
        "map_percent": {"easy": 40.0, "medium": 30.0, "hard": None},
        "queries": 70,
        "database": 4993,
    },
    "retrieval": {"map_percent": 4.0, "queries": 389},
    "few_shot": {"5": {"top1_percent": 3.0, "interval95_percent": 0.5}, "1": {"top1_percent": 2.0}},
    "fine_tune": {"0.1": {"top1_percent": 7.0, "images": 141, "run": "fine-tune-0.1"}},
    "label_shares": {"0.01": {"top1_percent": 8.0, "images": 10}},
    "linear_augmented": {
        **{"top1_percent": 5.0, "learning_rate": 1.0, "images": 1408},
        "heldout_top1_percent_by_rate": {"1": 5.5},
        "best_on_eval": {"top1_percent": 6.0, "learning_rate": 2.0},
    },
    "linear_top1_percent": 9.0,
    "linear_learning_rate": 0.1,
    "knn_top1_percent": {"200": 1.0, "20": 2.0},
}
BESIDE: dict[str, Any] = {
    "robustness": {
        "by_corruption": {"contrast": {"1": {"knn_top1_percent": 40.5}}},
        "mean": {"knn_top1_percent": 25.0, "linear_top1_percent": 35.0},
    },
    "statistics": {
        **{"rankme": 12.5, "lidar": 9.25, "alignment": 0.5, "uniformity": -2.5},
        **{"images": 389, "views": 4, "features": 96},
    },
}


def test_each_protocol_has_its_columns_in_the_order_of_the_sections() -> None:
    results = Results.model_validate({"status": "finished", "rows": [ROW], **BESIDE})
    found = figures_by_section(results.rows[0]) | figures_beside_rows(results)
    assert set(found) == set(SECTIONS)
    figures = {name: value for values in found.values() for name, value in values.items()}
    order = in_order({name: section for section, values in found.items() for name in values})
    assert [(name, figures[name]) for name in order] == [
        *(("k-NN k=20", 2.0), ("k-NN k=200", 1.0), ("linear", 9.0)),
        *(("linear, augmented", 5.0), ("linear, augmented, best on eval", 6.0)),
        *(("linear, 1 % of labels", 8.0), ("fine-tuned, 10 %", 7.0), ("1-shot", 2.0), ("5-shot", 3.0)),
        *(("retrieval mAP", 4.0), ("landmarks mAP, easy", 40.0), ("landmarks mAP, medium", 30.0)),
        *(("video J&F", 60.0), ("video J", 59.0), ("video F", 61.0)),
        *(("box AP", 30.0), ("box AP50", 50.0), ("mask AP", 25.0)),
        *(("corrupted, k-NN", 25.0), ("corrupted, linear", 35.0)),
        *(("RankMe", 12.5), ("LiDAR", 9.25), ("alignment", 0.5), ("uniformity", -2.5)),
    ]


def test_no_section_of_an_evaluation_is_forgotten() -> None:
    settings = {"kind", "name", "seed", "storage", "weights", "data", "baselines"}
    execution = {"images_per_batch", "actors", "object_store"}
    assert set(EvaluateJobSpec.model_fields) - settings - execution == set(SECTIONS)


def test_a_section_of_a_later_version_gives_what_it_has_in_percent() -> None:
    row = ResultRow.model_validate(
        {"features": "f", "depth_probe": {"easy": {"top1_percent": 5.0, "interval95_percent": 1.0, "n": 3}}}
    )
    assert figures_of(row) == {"depth probe easy": 5.0}


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        *(("k-NN k=200", "k-NN"), ("linear", "linear"), ("linear, augmented", "linear")),
        *(("linear, augmented, best on eval", "linear"), ("linear, 1 % of labels", "linear, 1 % of labels")),
        *(("fine-tuned, 1 %", "fine-tuned, 1 %"), ("corrupted, linear", "corrupted, linear")),
    ],
)
def test_published_figures_are_compared_within_a_family(protocol: str, expected: str) -> None:
    assert family(protocol) == expected
