"""The points of a search from best to worst."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from statistics import mean, stdev

from ..spec.identity import resolved_yaml
from ..spec.search import SearchSpec
from ..spec.trial_specs import point_in_words
from .pareto import pareto_front
from .population import takeover_in_words
from .records import Record
from .trials import make_trial


@dataclass(frozen=True)
class Entry:
    """A point and what came of it over its seeds.

    Attributes:
        rank: from 1; points of which every seed has finished come before others, whatever their metric.
        point_number, point: the latter in words.
        value: mean metric of the finished runs; of a point without one, of what the others reached.
        deviation: sample standard deviation over finished runs; None with fewer than two.
        seeds_finished, seeds_started: number of runs.
        status: finished, or that of a run which is not.
        epochs: fewest that one of its runs was measured at.
        wall_s, gpu_hours, cost: of all its runs; cost is None without a price.
        runs: names of the run folders.
        error: of a failed run.
        spec: resolved job of its first seed, YAML; empty where the base's spec refuses the point.
        lineage: in a population, what it took over from others, in words; `point` and `spec` are then those
            that it ended with.
        values: all metrics by name where the search has several, mean over the finished runs.
        pareto: whether no other point beats it in all of them; of points of which every seed has finished.
    """

    rank: int
    point_number: int
    point: str
    value: float | None
    deviation: float | None
    seeds_finished: int
    seeds_started: int
    status: str
    epochs: int
    wall_s: float
    gpu_hours: float
    cost: float | None
    runs: list[str]
    error: str
    spec: str
    lineage: list[str]
    values: dict[str, float | None]
    pareto: bool


def leaderboard(search: SearchSpec, records: Iterable[Record]) -> list[Entry]:
    """Every point that was started, best first, with its job."""
    known = list(records)
    started = {record.point_number: record for record in known if record.run}
    return [
        replace(entry, spec=_spec(search, started[entry.point_number]))
        if entry.point_number in started
        else entry
        for entry in ranking(search, known)
    ]


def _spec(search: SearchSpec, record: Record) -> str:
    first = record.point_number * search.seeds
    return resolved_yaml(make_trial(search, first, record.point, since_epoch=record.since_epoch).job)


def job_text(entry: Entry) -> str:
    """The job of a point as a file; one whose values changed during training says so, as it is not all."""
    if not entry.lineage:
        return entry.spec
    lines = ["The last values of a population-based training; its run went on:", *entry.lineage]
    return "".join(f"# {line}\n" for line in lines) + entry.spec


def ranking(search: SearchSpec, records: Iterable[Record]) -> list[Entry]:
    """The leaderboard without the jobs, which take time to write; with several metrics the front first."""
    by_point: dict[int, list[Record]] = {}
    for record in records:
        by_point.setdefault(record.point_number, []).append(record)
    entries = _with_front(search, [_entry(search, *item) for item in by_point.items()])
    sign = -1.0 if search.maximises else 1.0

    def order(entry: Entry) -> tuple[bool, bool, bool, float, int]:
        finished = entry.seeds_finished
        value = sign * entry.value if entry.value is not None else float("inf")
        return finished < search.seeds, finished == 0, not entry.pareto, value, entry.point_number

    ranked = sorted(entries, key=order)
    return [replace(entry, rank=place) for place, entry in enumerate(ranked, 1)]


def _with_front(search: SearchSpec, entries: list[Entry]) -> list[Entry]:
    if search.metrics is None:
        return entries
    complete = {
        entry.point_number: [value for value in entry.values.values() if value is not None]
        for entry in entries
        if entry.seeds_finished == search.seeds
    }
    whole = {number: found for number, found in complete.items() if len(found) == len(search.metrics)}
    front = pareto_front(whole, search.directions)
    return [replace(entry, pareto=entry.point_number in front) for entry in entries]


def values_by_seed(records: Iterable[Record], point_number: int) -> dict[int, float]:
    """Metric of a point's finished runs by seed."""
    return {
        record.seed: record.value
        for record in records
        if record.point_number == point_number and record.status == "finished" and record.value is not None
    }


def leaderboard_parquet(entries: list[Entry]) -> bytes:
    """The leaderboard as a Parquet file, a row a point, columns as of `Entry`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "int": pa.int64(),
        "float": pa.float64(),
        "float | None": pa.float64(),
        "str": pa.string(),
        "bool": pa.bool_(),
        "list[str]": pa.list_(pa.string()),
        "dict[str, float | None]": pa.map_(pa.string(), pa.float64()),
    }
    schema = pa.schema([(name, types[str(kind)]) for name, kind in Entry.__annotations__.items()])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(entry) for entry in entries], schema=schema), sink)
    return sink.getvalue()


def _entry(search: SearchSpec, number: int, members: list[Record]) -> Entry:
    finished = [
        record.value for record in members if record.status == "finished" and record.value is not None
    ]
    reached = finished or [record.value for record in members if record.value is not None]
    gpu_hours, price = sum(record.gpu_hours for record in members), search.budget.price_per_gpu_hour
    return Entry(
        rank=0,
        point_number=number,
        point=point_in_words(members[0].point),
        value=mean(reached) if reached else None,
        deviation=stdev(finished) if len(finished) > 1 else None,
        seeds_finished=len(finished),
        seeds_started=len(members),
        status=next((record.status for record in members if record.status != "finished"), "finished"),
        epochs=min((record.evaluations[-1].epoch if record.evaluations else 0) for record in members),
        wall_s=sum(record.wall_s for record in members),
        gpu_hours=gpu_hours,
        cost=gpu_hours * price if price is not None else None,
        runs=[run for record in members if record.run for run in _runs(record)],
        error=next((record.error for record in members if record.status == "failed"), ""),
        spec="",
        lineage=[takeover_in_words(takeover) for record in members for takeover in record.lineage],
        values={name: _mean_of(members, name) for name in search.metrics or ()},
        pareto=False,
    )


def _mean_of(members: list[Record], metric: str) -> float | None:
    found = [record.values.get(metric) for record in members if record.status == "finished"]
    known = [value for value in found if value is not None]
    return mean(known) if known else None


def _runs(record: Record) -> list[str]:
    """Run folders of a trial, the newest last: a population's has one for each point that it had."""
    return [*(takeover.run for takeover in record.lineage), record.run]
