"""What a search costs beside its trainings, and what early stopping saves: ASHA against the full grid.

    python -m tests.benchmarks.bench_search [--epochs 24] [--folder FOLDER]

Runs `jobs/search/digits_negatives.yaml` with MoBY and three kinds of negatives alone, each at four learning rates
(16 points), twice on this machine, once with every trial to its end and once with ASHA. With `--folder` both stay there, and what has ended in an
earlier call is not run again.

For each trial: seconds until its first step (preparing, starting workers and actors), seconds of its steps, and
the rest (evaluations, checkpoints, page, teardown, the record). What is not steps is the search's overhead and
what a single run has too; the driver's own bookkeeping is what the search's wall time has beyond its trials,
given how many ran at once.

Predicted before measuring: a trial costs 40 to 60 s beside its steps, as with fewer points (7 points of 12 epochs:
57 % of the epochs and 71 % of the time), which is a fifth of a trial of 24 epochs that goes to its end. ASHA (grace 2
epochs, one in four goes on) trains about 30 % of the grid's epochs in 45 % of its time: of the first trials of a rung
too many go on, as they have nothing to be compared with. The same winner within a few points: learning rates differ
more than seeds do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn2co_ray.report.run_files import load_run_files
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store

ROOT = Path(__file__).resolve().parents[2]
SEARCH = ROOT / "jobs/search/digits_negatives.yaml"
SCHEDULERS = {"full grid": "none", "asha": "{name: asha, grace_epochs: 2, reduction_factor: 4}"}
KINDS = ("interpolated", "noise", "adversarial")
LEARNING_RATES = (3.0e-3, 6.0e-3, 1.2e-2, 2.4e-2)
SPACE = {
    "method.framework": {"grid": ["moby", "synby"]},
    "method.negatives": {
        "when": {"method.framework": "synby"},
        "grid": [{"hardest": 64, kind: 64} for kind in KINDS],
    },
    "train.optimizer.learning_rate_base": {"grid": LEARNING_RATES},
}


@dataclass(frozen=True)
class TrialCost:
    """Seconds of one trial, by what they went into."""

    number: int
    point: str
    status: str
    epochs: int
    knn: float | None
    wall_s: float
    start_s: float
    steps_s: float

    @property
    def rest_s(self) -> float:
        return self.wall_s - self.start_s - self.steps_s


@dataclass(frozen=True)
class Searched:
    """A search that has ended."""

    name: str
    wall_s: float
    best: dict[str, Any]
    trials: list[TrialCost]

    def total(self, part: str) -> float:
        return sum(getattr(trial, part) for trial in self.trials)


def searched(name: str, folder: Path, epochs: int) -> Searched:
    """Run a search, or read what it left when it has ended, and add up its trials."""
    place = folder / name.replace(" ", "-")
    place.mkdir(parents=True, exist_ok=True)
    overrides = [
        f"scheduler={SCHEDULERS[name]}",
        f"space={json.dumps(SPACE)}",
        f"base.train.epochs={epochs}",
    ]
    words = ["-m", "syn2co_ray.cli", "run", str(SEARCH), *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if subprocess.run([sys.executable, *words], cwd=place, env=environment).returncode:
        sys.exit(f"{name}: the search failed")
    (root,) = (place / "runs").glob("digits-negatives-*")
    results = json.loads((root / "results.json").read_text())
    records = [json.loads(path.read_text()) for path in sorted(root.glob("records/*.json"))]
    words_of = {entry["point_number"]: entry["point"] for entry in results["entries"]}
    trials = [_trial(root, record, words_of[record["point_number"]]) for record in records]
    return Searched(name, results["wall_s"], results["best"], trials)


def _trial(root: Path, record: dict[str, Any], words: str) -> TrialCost:
    files = load_run_files(open_store(str(root / "trials" / record["run"]), ObjectStoreSpec()))
    assert files.results is not None
    return TrialCost(
        record["number"],
        words,
        record["status"],
        max((evaluation["epoch"] for evaluation in record["evaluations"]), default=0),
        record["value"],
        record["wall_s"],
        files.results.startup_s["total"],
        sum(step.step_time_s or 0.0 for step in files.steps),
    )


def show(search: Searched) -> None:
    print(f"\n{search.name}: {search.wall_s:.0f} s of wall time")
    print("trial  status    epochs    knn   wall s  start s  steps s   rest s  not steps  point")
    for trial in search.trials:
        knn = f"{trial.knn:6.2f}" if trial.knn is not None else "     -"
        print(
            f"{trial.number:5d}  {trial.status:<9} {trial.epochs:5d} {knn} {trial.wall_s:8.1f} {trial.start_s:8.1f}"
            f" {trial.steps_s:8.1f} {trial.rest_s:8.1f} {1 - trial.steps_s / trial.wall_s:9.0%}   {trial.point}"
        )
    steps, wall = search.total("steps_s"), search.total("wall_s")
    print(
        f"all: {search.total('epochs'):.0f} epochs, {wall:.0f} s of trials, of which {steps:.0f} s steps: "
        f"overhead {(wall - steps) / steps:.0%} of the training time"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=24, help="of a trial that is not stopped")
    parser.add_argument("--folder", type=Path, help="where both searches stay")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = [searched(name, folder.resolve(), asked.epochs) for name in SCHEDULERS]
    for search in found:
        show(search)
    grid, asha = found
    print("\nsearch     epochs  trial time  wall time  winner")
    for search in found:
        print(
            f"{search.name:<10} {search.total('epochs'):6.0f} {search.total('wall_s'):9.0f} s "
            f"{search.wall_s:8.0f} s  {search.best['value']:.2f} % k-NN: {search.best['point']}"
        )
    same = "the same winner" if grid.best["point"] == asha.best["point"] else "another winner"
    print(
        f"asha costs {asha.total('wall_s') / grid.total('wall_s'):.0%} of the grid's trial time and "
        f"{asha.total('epochs') / grid.total('epochs'):.0%} of its epochs: {same}, one seed"
    )


if __name__ == "__main__":
    main()
