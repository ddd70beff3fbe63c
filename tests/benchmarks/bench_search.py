"""What a search costs beside its trainings, and what early stopping saves: both sorts of ASHA against the full grid.

    python -m tests.benchmarks.bench_search [--epochs 24] [--seeds 3] [--folder FOLDER]

Runs `jobs/search/digits_negatives.yaml` with MoBY and three kinds of negatives alone, each at four learning rates
(16 points), on this machine: with every trial to its end, with Ray Tune's ASHA, and with the ASHA that promotes.
Then the winner of each is trained with several seeds. With `--folder` all of it stays there, and what has ended
in an earlier call is not run again.

For each trial: seconds until its first step (preparing, starting workers and actors), seconds of its steps, and
the rest (evaluations, checkpoints, page, teardown, the record). What is not steps is the search's overhead and
what a single run has too; the driver's own bookkeeping is what the search's wall time has beyond its trials,
given how many ran at once.

Predicted before measuring: a trial costs 40 to 60 s beside its steps, as with fewer points (7 points of 12 epochs:
57 % of the epochs and 71 % of the time), which is a fifth of a trial of 24 epochs that goes to its end. ASHA (grace 2
epochs, one in four goes on) trains about 30 % of the grid's epochs in 45 % of its time: of the first trials of a rung
too many go on, as they have nothing to be compared with. The same winner within a few points: learning rates differ
more than seeds do. After ASHA had taken 45 % of the epochs and 47 % of the time, predicted of the one that promotes:
25 % of the epochs and 35 to 40 % of the time, five starts more included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
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
RUNGS = "grace_epochs: 2, reduction_factor: 4"
SCHEDULERS = {
    "full grid": "none",
    "asha": f"{{name: asha, {RUNGS}}}",
    "asha promotion": f"{{name: asha_promotion, {RUNGS}}}",
}
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
    best_point: dict[str, Any]
    trials: list[TrialCost]

    def total(self, part: str) -> float:
        return sum(getattr(trial, part) for trial in self.trials)


def searched(name: str, folder: Path, *overrides: str) -> Searched:
    """Run a search, or read what it left when it has ended, and add up its trials."""
    place = folder / name.replace(" ", "-")
    place.mkdir(parents=True, exist_ok=True)
    words = ["-m", "syn2co_ray.cli", "run", str(SEARCH), *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if subprocess.run([sys.executable, *words], cwd=place, env=environment).returncode:
        sys.exit(f"{name}: the search failed")
    (root,) = (place / "runs").glob("digits-negatives-*")
    results = json.loads((root / "results.json").read_text())
    records = [json.loads(path.read_text()) for path in sorted(root.glob("records/*.json"))]
    words_of = {entry["point_number"]: entry["point"] for entry in results["entries"]}
    trials = [_trial(root, record, words_of[record["point_number"]]) for record in records]
    best = results["best"]
    point = next(record["point"] for record in records if record["point_number"] == best["point_number"])
    return Searched(name, results["wall_s"], best, point, trials)


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


def show_winners(found: list[Searched], folder: Path, epochs: int, seeds: int) -> None:
    """Train each search's winner with several seeds."""
    winners = {json.dumps(search.best_point): search for search in found}
    for number, (point, search) in enumerate(winners.items()):
        space = {key: {"grid": [value]} for key, value in json.loads(point).items()}
        overrides = (
            f"space={json.dumps(space)}",
            f"seeds={seeds}",
            f"base.train.epochs={epochs}",
            "scheduler=none",
        )
        again = searched(f"winner {number}", folder, *overrides)
        values = [trial.knn for trial in again.trials if trial.knn is not None]
        told = (
            f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} % k-NN over {len(values)} seeds"
        )
        print(f"{search.best['point']} (won {search.name}): {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=24, help="of a trial that is not stopped")
    parser.add_argument(
        "--seeds", type=int, default=3, help="of each winner afterwards, at least 2; 0: not at all"
    )
    parser.add_argument("--folder", type=Path, help="where all searches stay")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(asked.folder or stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        of_all = (f"space={json.dumps(SPACE)}", f"base.train.epochs={asked.epochs}")
        found = [searched(name, folder, f"scheduler={how}", *of_all) for name, how in SCHEDULERS.items()]
        for search in found:
            show(search)
        grid = found[0]
        print(f"\n{'search':<15}{'epochs':>7}{'trial time':>12}{'wall time':>11}  winner")
        for search in found:
            parts = [search.total(part) / grid.total(part) for part in ("epochs", "wall_s")]
            print(
                f"{search.name:<15}{search.total('epochs'):7.0f}{search.total('wall_s'):10.0f} s{search.wall_s:9.0f} s  "
                f"{search.best['value']:.2f} % k-NN: {search.best['point']} "
                f"({parts[0]:.0%} of the epochs, {parts[1]:.0%} of the time)"
            )
        if asked.seeds:
            show_winners(found, folder, asked.epochs, asked.seeds)


if __name__ == "__main__":
    main()
