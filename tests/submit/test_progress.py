"""Progress as plain lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from syn2co_ray.submit.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.9, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_lines_have_epoch_step_loss_rate_wait_and_time_left():
    row = {"step": 50, "total_steps": 100, "epoch": 4, "epochs": 10, "loss": 6.5, "images_per_s": 320.0,
           "step_time_s": 0.1, "data_wait_share": 0.25, "skipped": False}  # fmt: skip
    out = io.StringIO()
    with Progress(Console(file=out, width=200)) as progress:
        progress.show({"progress": row, "evaluations": [], "warnings": []})
        evaluation = {"epoch": 5, "step": 50, "knn": {"10": 81.25, "20": 80.0}}
        later = {"progress": row, "evaluations": [evaluation], "warnings": ["it has collapsed"]}
        progress.show(later)
        progress.show(later)
    assert out.getvalue().splitlines() == [
        "epoch 5/10  step 50/100  loss 6.5000  320 images/s  data wait 25%  ETA 5 s",
        "epoch 5: k-NN top-1 81.2 % (k=10), 80.0 % (k=20)",
        "warning: it has collapsed",
    ]
