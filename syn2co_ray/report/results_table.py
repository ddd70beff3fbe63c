"""One table of many runs: a row for those that differ only in their seed, a column a protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import yaml

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.identity import hash_but_seed
from syn2co_ray.spec.load import build_spec

from .device_hours import DeviceHours, mean_hours
from .published import Published, published_for, value_at
from .run_files import ResultRow, RunFiles
from .run_folders import LoadedRun
from .table import TRAINED

COMMIT_LENGTH = HASH_LENGTH = 8


@dataclass(frozen=True)
class Measured:
    """One figure over the runs of a row that have it: mean, sample deviation (None of a single one), n."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class TableRow:
    """Runs of one spec, whatever their seeds.

    Attributes:
        name: of the runs.
        framework, backbone, data, epochs: as their spec says.
        features: which encoder was measured.
        seeds: of the runs.
        figures: protocol -> percent.
        published: the papers' row, where there is one.
        hours: None where no step time is recorded.
        commits: of the code, shortened; `+` marks uncommitted changes.
        data_hash: of the data's fingerprints, shortened; empty where they are not known.
        runs: URIs.
    """

    name: str
    framework: str
    backbone: str
    data: str
    epochs: str
    features: str
    seeds: tuple[int, ...]
    figures: Mapping[str, Measured]
    published: Published | None
    hours: DeviceHours | None
    commits: tuple[str, ...]
    data_hash: str
    runs: tuple[str, ...]


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


@dataclass
class _Group:
    """Runs that are repeats of one another, by seed."""

    by_seed: dict[int, LoadedRun] = field(default_factory=dict)


def results_table(runs: Sequence[LoadedRun], baselines: bool = False) -> ResultsTable:
    """The table of these runs; every one of them is in a row or left out with a reason.

    Repeats have the same spec but for seed and name, and data of the same fingerprints. A seed counts once.

    Args:
        runs: run folders that were read.
        baselines: also rows for the features that a run compares its encoder with.
    """
    groups: dict[tuple[str, str], _Group] = {}
    left_out: list[LeftOut] = []
    for run in runs:
        reason = _why_left_out(run)
        if not reason:
            group = groups.setdefault(_identity(run.files), _Group())
            seed = _seed(run.files.spec)
            if seed in group.by_seed:
                reason = f"repeats seed {seed} of {group.by_seed[seed].uri}, which is in the table"
            else:
                group.by_seed[seed] = run
        if reason:
            left_out.append(LeftOut(run.uri, reason))
    rows = tuple(row for group in groups.values() for row in _rows(group, baselines))
    return ResultsTable(rows, _protocols(rows), tuple(left_out))


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


def _identity(files: RunFiles) -> tuple[str, str]:
    """Spec without seed and name, and the data it found."""
    data = files.provenance.data if files.provenance else []
    try:
        spec = hash_but_seed(build_spec(dict(files.spec)))
    except SpecError:
        # A run of another version, whose spec this one refuses: only those of equal text are repeats.
        spec = yaml.safe_dump({k: v for k, v in files.spec.items() if k not in ("seed", "name", "storage")})
    return spec, " ".join(source.fingerprint or source.uri for source in data)


def _seed(spec: Mapping[str, Any]) -> int:
    seed = spec.get("seed")
    return seed if isinstance(seed, int) else 0


def _rows(group: _Group, baselines: bool) -> Iterator[TableRow]:
    runs = [group.by_seed[seed] for seed in sorted(group.by_seed)]
    results = [run.files.results.rows for run in runs if run.files.results is not None]
    features = list(dict.fromkeys(row.features for rows in results for row in rows))
    trained = [name for name in features if name.startswith(TRAINED)]
    for name in features if baselines or not trained else trained:
        found = [figures_of(row) for rows in results for row in rows if row.features == name]
        yield _row(runs, name, found, is_trained=name in trained)


def _row(
    runs: Sequence[LoadedRun], features: str, found: Sequence[Mapping[str, float]], is_trained: bool
) -> TableRow:
    spec = runs[0].files.spec
    provenances = [run.files.provenance for run in runs if run.files.provenance is not None]
    data = provenances[0].data if provenances else []
    records = [source.records for source in data]
    train_images = sum(count for count in records if count is not None) if None not in records else None
    commits = dict.fromkeys(_short_commit(source.git_commit) for source in provenances)
    return TableRow(
        name=_joined([str(run.files.spec.get("name") or run.uri.rsplit("/", 1)[-1]) for run in runs]),
        framework=str(value_at(spec, "method.framework") or spec.get("kind") or ""),
        backbone=_backbone(spec),
        data=_data(spec),
        epochs=str(value_at(spec, "train.epochs") or ""),
        features=features,
        seeds=tuple(_seed(run.files.spec) for run in runs),
        figures=_measured(found),
        published=published_for(spec, train_images) if is_trained else None,
        hours=mean_hours([run.files for run in runs]) if is_trained else None,
        commits=tuple(commit for commit in commits if commit),
        data_hash=" ".join((source.fingerprint or "")[:HASH_LENGTH] for source in data).strip(),
        runs=tuple(run.uri for run in runs),
    )


def _measured(found: Sequence[Mapping[str, float]]) -> dict[str, Measured]:
    values: dict[str, list[float]] = {}
    for figures in found:
        for protocol, value in figures.items():
            values.setdefault(protocol, []).append(value)
    return {
        protocol: Measured(mean(each), stdev(each) if len(each) > 1 else None, len(each))
        for protocol, each in values.items()
    }


def figures_of(row: ResultRow) -> dict[str, float]:
    """Protocol -> percent: k-NN by k, the linear probe, and whatever else in percent the row holds."""
    found = {f"k-NN k={k}": row.knn_top1_percent[k] for k in sorted(row.knn_top1_percent)}
    if row.linear_top1_percent is not None:
        found["linear"] = row.linear_top1_percent
    for name, value in (row.model_extra or {}).items():
        found.update(_percents((name,), value))
    return found


def _percents(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, float]]:
    """Numbers below a value whose name ends in `_percent`; `interval95_percent` belongs to another one."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _percents((*path, str(name)), inner)
    elif isinstance(value, int | float) and path[-1].endswith("_percent") and "interval" not in path[-1]:
        last = path[-1].removesuffix("_percent")
        words = path[:-1] if last == "top1" and path[:-1] else (*path[:-1], last)
        yield " ".join(word.replace("_", " ") for word in words), float(value)


def _backbone(spec: Mapping[str, Any]) -> str:
    """The backbone's name, with what the spec changes in it."""
    options = value_at(spec, "method.backbone_options")
    changed = dict(options) if isinstance(options, Mapping) else {}
    if (patch := value_at(spec, "method.patch_size")) is not None:
        changed["patch_size"] = patch
    told = ", ".join(f"{name} {value}" for name, value in changed.items())
    return f"{value_at(spec, 'method.backbone') or ''}{f' ({told})' if told else ''}"


def _data(spec: Mapping[str, Any]) -> str:
    """Sources by the last two names of their URIs, with their shares and where they are not photographs."""
    sources = value_at(spec, "data.train")
    told = []
    for source in sources if isinstance(sources, list) else []:
        uri, share = str(value_at(source, "uri") or ""), value_at(source, "share")
        words = "/".join([name for name in uri.rpartition("://")[2].split("/") if name][-2:])
        if isinstance(share, int | float):
            words = f"{100 * share:g} % {words}"
        if value_at(source, "origin") == "generated":
            words += " (generated)"
        told.append(words)
    return " + ".join(told)


def _short_commit(commit: str | None) -> str:
    return commit[:COMMIT_LENGTH] + ("+" if commit.endswith("+") else "") if commit else ""


def _joined(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:3]) + (f" and {len(different) - 3} more" if len(different) > 3 else "")


def _protocols(rows: Sequence[TableRow]) -> tuple[str, ...]:
    """k-NN by k, then the linear probe, then the others in the order in which they came."""
    found = dict.fromkeys(protocol for row in rows for protocol in row.figures)

    def order(protocol: str) -> tuple[int, int]:
        if protocol.startswith("k-NN k="):
            return 0, int(protocol.partition("=")[2])
        return (1, 0) if protocol == "linear" else (2, 0)

    return tuple(sorted(found, key=order))
