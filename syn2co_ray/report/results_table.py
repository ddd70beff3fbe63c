"""One table of many runs: a row for those that differ only in their seed, a column a protocol.

Evaluations stand in the row of the training whose weights they measured. What was measured on other images or
under other settings than the training itself measured is in a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from .device_hours import DeviceHours, mean_hours
from .joined import Line, join
from .measured import HASH_LENGTH, Measurement, Weights, measurement_of, set_name
from .protocols import family, in_order
from .published import Published, published_for
from .run_folders import LoadedRun

COMMIT_LENGTH = 8


@dataclass(frozen=True)
class Measured:
    """One figure over the runs of a row that have it: mean, sample deviation (None of a single one), n."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class TableRow:
    """One training, whatever its seeds, or one file of weights.

    Attributes:
        name: of the training; of the evaluations, in brackets, where the row has no other figures.
        framework, backbone, data, epochs: as the training's spec says.
        features: which encoder was measured.
        measured_on: the sets of images, by the end of their URIs and a hash.
        seeds: of the trainings.
        figures: protocol -> figure; percent but for the statistics of features.
        published: family of protocols -> a paper's figure.
        hours: of the training; None where no step time is recorded.
        commits: of the code, shortened; `+` marks uncommitted changes.
        data_hash: of the training data's fingerprints, shortened; empty where they are not known.
        runs: URIs.
        has_evaluation: some of the runs are evaluations.
    """

    name: str
    framework: str
    backbone: str
    data: str
    epochs: str
    features: str
    measured_on: str
    seeds: tuple[int, ...]
    figures: Mapping[str, Measured]
    published: Mapping[str, Published]
    hours: DeviceHours | None
    commits: tuple[str, ...]
    data_hash: str
    runs: tuple[str, ...]
    has_evaluation: bool


@dataclass(frozen=True)
class LeftOut:
    """A run that is in no row, and why."""

    uri: str
    reason: str


@dataclass(frozen=True)
class ResultsTable:
    """Rows, the protocols that any of them has, and the runs that are in none."""

    rows: tuple[TableRow, ...]
    protocols: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def results_table(runs: Sequence[LoadedRun], baselines: bool = False) -> ResultsTable:
    """The table of these runs; every one of them is in a row or left out with a reason.

    Repeats have the same spec but for seed and name, and data of the same fingerprints. A seed counts once
    in a figure.

    Args:
        runs: run folders that were read.
        baselines: also rows for the features that a run compares its encoder with.
    """
    groups: dict[str, list[Measurement]] = {}
    reasons: dict[str, str] = {}
    for run in runs:
        if reason := _why_left_out(run):
            reasons[run.uri] = reason
        else:
            found = measurement_of(run)
            groups.setdefault(found.weights.identity, []).append(found)
    rows: list[TableRow] = []
    section_of: dict[str, str] = {}
    for group in groups.values():
        lines, repeats = join(group)
        reasons |= repeats
        for line in lines:
            rows += _rows(line, baselines)
            section_of |= line.section_of
    shown = {protocol for row in rows for protocol in row.figures}
    protocols = in_order({name: section for name, section in section_of.items() if name in shown})
    left_out = tuple(LeftOut(run.uri, reasons[run.uri]) for run in runs if run.uri in reasons)
    return ResultsTable(tuple(rows), protocols, left_out)


def _why_left_out(run: LoadedRun) -> str:
    files = run.files
    if run.fault:
        return f"cannot be read: {run.fault}"
    if not files.spec:
        problems = [text for text in files.unreadable if text.startswith("spec.yaml")]
        return problems[0] if problems else "no spec.yaml"
    if files.results is None:
        problems = [text for text in files.unreadable if text.startswith("results.json")]
        step = f" (last recorded step {files.steps[-1].step})" if files.steps else ""
        return problems[0] if problems else f"no results.json: under way, or stopped without finishing{step}"
    if files.results.status != "finished":
        return f"{files.results.status} after step {files.results.steps}"
    return "" if files.results.rows else "finished, but nothing was evaluated"


def _rows(line: Line, baselines: bool) -> Iterator[TableRow]:
    own = {name for runs in line.runs.values() for run in runs for name in run.own_features}
    for features in line.runs:
        if features in own or baselines:
            yield _row(line, features, is_own=features in own)


def _row(line: Line, features: str, is_own: bool) -> TableRow:
    runs = sorted(line.runs[features], key=lambda run: run.weights.seed)
    by_seed: dict[int, Weights] = {}
    for run in runs:
        by_seed.setdefault(run.weights.seed, run.weights)
    values = {protocol: found for (name, protocol), found in line.values.items() if name == features}
    weights = runs[0].weights
    name = _joined([each.name for each in by_seed.values()])
    evaluations = [run.name for run in runs if not run.is_training]
    if len(evaluations) == len(runs):
        name += f" ({_joined(evaluations)})"
    return TableRow(
        name=name,
        framework=weights.framework,
        backbone=weights.backbone,
        data=weights.data,
        epochs=weights.epochs,
        features=features,
        measured_on=_measured_on(line),
        seeds=tuple(by_seed),
        figures={protocol: _measured(list(found.values())) for protocol, found in values.items()},
        published=_published(line, weights, values) if is_own else {},
        hours=mean_hours([each.hours for each in by_seed.values()]) if is_own else None,
        commits=_commits(runs),
        data_hash=_data_hash(weights),
        runs=tuple(run.run.uri for run in runs),
        has_evaluation=bool(evaluations),
    )


def _measured(values: Sequence[float]) -> Measured:
    return Measured(mean(values), stdev(values) if len(values) > 1 else None, len(values))


def _measured_on(line: Line) -> str:
    """Sets of images, each once: those of `data.eval`, of videos, landmarks and detectors."""
    sets = [line.first_of[section].images(section) for section in line.first_of]
    return ", ".join(dict.fromkeys(set_name(images[-1]) for images in sets if images))


def _published(line: Line, weights: Weights, protocols: Iterable[str]) -> dict[str, Published]:
    """Family of protocols -> the paper's figure, where ours was measured alike."""
    if weights.training is None or not weights.as_published:
        return {}
    counts = [source.records for source in weights.training.data]
    images = sum(count for count in counts if count is not None) if None not in counts else None
    entries = published_for(weights.training.spec, images)
    found = {}
    for protocol in protocols:
        section = line.section_of[protocol]
        run = line.first_of[section]
        counts = [images.records for images in run.images(section)]
        for entry in entries:
            if entry.protocol == family(protocol) and entry.is_measured_as(counts, run.run.files.spec):
                found[entry.protocol] = entry
    return found


def _commits(runs: Sequence[Measurement]) -> tuple[str, ...]:
    """Of the trainings, then of the evaluations where they are others."""
    trainings = [run.weights.training.git_commit for run in runs if run.weights.training is not None]
    commits = dict.fromkeys(commit for commit in (*trainings, *(run.commit for run in runs)) if commit)
    return tuple(dict.fromkeys(c[:COMMIT_LENGTH] + ("+" if c.endswith("+") else "") for c in commits))


def _data_hash(weights: Weights) -> str:
    data = weights.training.data if weights.training is not None else []
    return " ".join((source.fingerprint or "")[:HASH_LENGTH] for source in data).strip()


def _joined(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:3]) + (f" and {len(different) - 3} more" if len(different) > 3 else "")
