"""Population-based training over runs that are played: who takes over from whom, with which values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from syn2co_ray.search.leaderboard import job_text, leaderboard
from syn2co_ray.search.loop import Ended, Search
from syn2co_ray.search.mutation import moved, mutated
from syn2co_ray.search.population import takeover_in_words
from syn2co_ray.search.records import Records
from syn2co_ray.search.trials import Trial
from syn2co_ray.spec.errors import CheckpointError
from syn2co_ray.spec.identity import run_name
from syn2co_ray.spec.load import load_text
from syn2co_ray.spec.search import DimensionSpec
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store

from .fakes import EPOCHS, TEXT, run_to_end, search_spec

POPULATION = TEXT.replace("searcher: grid", "scheduler: {name: pbt, every_epochs: 3}\ntrials: 8").replace(
    "{grid: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}", "{uniform: [0.1, 1.0]}"
)


@dataclass
class Runs:
    """Runs that get better by their temperature every epoch, and keep what they have by run folder."""

    published: dict[str, tuple[int, float]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    handed_over: list[tuple[str, str, int]] = field(default_factory=list)
    fails: set[int] = field(default_factory=set)
    dies_after: int | None = None
    """Exchanges after which the driver dies in the middle of the next."""

    def start(self, trial: Trial) -> PlayedRun:
        self.started.append(run_name(trial.job))
        return PlayedRun(self, trial)

    def hand_over(self, donor, heir, epoch) -> None:
        if self.dies_after == len(self.handed_over):
            raise KeyboardInterrupt
        assert self.published[run_name(donor)][0] == epoch
        self.published[run_name(heir)] = self.published[run_name(donor)]
        self.handed_over.append((run_name(donor), run_name(heir), epoch))


@dataclass
class PlayedRun:
    """Trains one epoch at every look, and publishes it."""

    runs: Runs
    trial: Trial
    measured: dict[int, float] = field(default_factory=dict)
    asked: bool = False

    def evaluations(self) -> dict[int, float]:
        return dict(self.measured)

    def gpus(self) -> float:
        return 0.0

    def ask_to_stop(self) -> None:
        self.asked = True

    def ended(self) -> Ended | None:
        name = run_name(self.trial.job)
        epoch, skill = self.runs.published.get(name, (0, 0.0))
        if self.asked:
            return Ended("interrupted", dict(self.measured))
        if self.trial.number in self.runs.fails and epoch == 4:
            return Ended("failed", dict(self.measured), error="no memory")
        if epoch < (self.trial.stop_after_epochs or EPOCHS):
            epoch, skill = epoch + 1, skill + self.trial.job.method.temperature
            self.runs.published[name] = epoch, skill
            self.measured[epoch] = skill
        if epoch == EPOCHS:
            return Ended("finished", dict(self.measured), skill)
        return Ended("paused", dict(self.measured)) if epoch == self.trial.stop_after_epochs else None


def population(folder, runs: Runs, *overrides: str, concurrent: int = 8, text: str = POPULATION):
    lines: list[str] = []
    spec = search_spec(folder, *overrides, text=text)
    records = Records(open_store(str(folder), ObjectStoreSpec()))
    return Search(spec, records, runs.start, concurrent, 0.0, lines.append, runs.hand_over), lines


def what_came_out(search: Search) -> list[tuple]:
    return [
        (number, record.status, record.point, record.run, record.value, record.lineage)
        for number, record in sorted(search.known.items())
    ]


def test_the_worst_go_on_from_the_best_with_changed_values_and_say_so(tmp_path):
    runs = Runs()
    search, lines = population(tmp_path, runs)
    run_to_end(search)
    records = search.known
    first = {n: r.lineage[0].before if r.lineage else r.point for n, r in records.items()}
    order = sorted(first, key=lambda number: first[number]["method.temperature"])
    exchanged = {n: t for n, r in records.items() for t in r.lineage if t.epoch == 3}
    assert set(exchanged) == set(order[:2])  # a quarter of eight
    for number in order[:2]:
        takeover = exchanged[number]
        assert takeover.donor in order[-2:]
        donors = first[takeover.donor]["method.temperature"]
        after = takeover.after["method.temperature"]
        assert 0.1 <= after <= 1.0
        assert after not in (donors, takeover.before["method.temperature"])
    # Three exchanges: after 3, 6 and 9 of 10 epochs; two trials each.
    assert [epoch for _, _, epoch in runs.handed_over] == [3, 3, 6, 6, 9, 9]
    # It goes on from the donor's skill, at its own pace.
    number = order[0]
    epochs = {evaluation.epoch: evaluation.value for evaluation in records[number].evaluations}
    took = exchanged[number]
    donors = {evaluation.epoch: evaluation.value for evaluation in records[took.donor].evaluations}
    assert epochs[3] < donors[3]
    assert epochs[4] == pytest.approx(donors[3] + took.after["method.temperature"])
    assert list(epochs) == list(range(1, EPOCHS + 1))
    assert f"trial {number} goes on {takeover_in_words(took)}" in lines
    assert {record.status for record in records.values()} == {"finished"}


def test_without_exchanges_the_same_points_come_out_worse(tmp_path):
    search, _ = population(tmp_path / "pbt", Runs())
    plain, _ = population(
        tmp_path / "plain", Runs(), text=POPULATION.replace("{name: pbt, every_epochs: 3}", "none")
    )
    run_to_end(search)
    run_to_end(plain)
    mean = {s: sum(r.value for r in s.known.values()) / 8 for s in (search, plain)}
    assert mean[search] > mean[plain]
    assert max(r.value for r in search.known.values()) >= max(r.value for r in plain.known.values())


@pytest.mark.parametrize("concurrent", [1, 3])
def test_members_take_turns_where_there_is_room_for_fewer_and_nothing_else_changes(tmp_path, concurrent):
    together, _ = population(tmp_path / "together", Runs())
    in_turns, _ = population(tmp_path / "turns", Runs(), concurrent=concurrent)
    run_to_end(together)
    assert run_to_end(in_turns) == concurrent
    names = [(each[0], each[1], each[2], each[4]) for each in what_came_out(in_turns)]
    assert names == [(each[0], each[1], each[2], each[4]) for each in what_came_out(together)]


@pytest.mark.parametrize("looks_until_killed", [2, 5])
def test_a_search_whose_driver_is_killed_again_and_again_decides_as_an_undisturbed_one(
    tmp_path, looks_until_killed
):
    straight, _ = population(tmp_path / "straight", Runs(), concurrent=3)
    run_to_end(straight)
    runs = Runs()
    commands, going_on = 0, True
    while going_on:
        search, _ = population(tmp_path / "killed", runs, concurrent=3)
        going_on = search.step(0.0)  # only starts runs
        for look in range(looks_until_killed):
            going_on = going_on and search.step(60.0 * look)
        commands += 1
    assert 3 < commands < 100
    assert not search.left
    assert [each[:3] + each[4:5] for each in what_came_out(search)] == [
        each[:3] + each[4:5] for each in what_came_out(straight)
    ]
    assert len(runs.handed_over) == 6


def test_a_driver_that_dies_in_the_middle_of_an_exchange_ends_it_the_next_time(tmp_path):
    straight, _ = population(tmp_path / "straight", Runs())
    run_to_end(straight)
    runs = Runs(dies_after=1)
    search, _ = population(tmp_path / "killed", runs)
    with pytest.raises(KeyboardInterrupt):
        run_to_end(search)
    assert sum(bool(record.lineage) for record in Records(search.records.store).load().values()) == 1
    runs.dies_after = None
    again, lines = population(tmp_path / "killed", runs)
    run_to_end(again)
    assert [each[:3] + each[4:5] for each in what_came_out(again)] == [
        each[:3] + each[4:5] for each in what_came_out(straight)
    ]
    assert [epoch for _, _, epoch in runs.handed_over] == [3, 3, 6, 6, 9, 9]
    assert sum("after 3 epochs from trial" in line for line in lines) == 1


def test_a_search_that_was_stopped_goes_on(tmp_path):
    straight, _ = population(tmp_path / "straight", Runs())
    run_to_end(straight)
    runs = Runs()
    search, _ = population(tmp_path / "stopped", runs)
    for look in range(6):
        search.step(60.0 * look)
    search.close("stopped")
    run_to_end(search)
    assert {record.status for record in search.known.values()} == {"interrupted"}
    rest, _ = population(tmp_path / "stopped", runs)
    run_to_end(rest)
    assert [each[:3] for each in what_came_out(rest)] == [each[:3] for each in what_came_out(straight)]


def test_a_member_that_fails_leaves_the_population_and_the_others_go_on(tmp_path):
    runs = Runs(fails={0, 5})
    search, _ = population(tmp_path, runs, "retries=0")
    run_to_end(search)
    statuses = [record.status for _, record in sorted(search.known.items())]
    assert [number for number, status in enumerate(statuses) if status == "failed"] == [0, 5]
    assert set(statuses) == {"finished", "failed"}
    later = [takeover for r in search.known.values() for takeover in r.lineage if takeover.epoch > 3]
    assert later
    assert not {takeover.donor for takeover in later} & {0, 5}


def test_a_checkpoint_that_cannot_be_handed_over_is_told_and_the_trial_keeps_its_own(tmp_path):
    runs = Runs()

    def broken(donor, heir, epoch) -> None:
        raise CheckpointError("there", "is not whole")

    runs.hand_over = broken
    search, lines = population(tmp_path, runs)
    run_to_end(search)
    assert {record.status for record in search.known.values()} == {"finished"}
    assert not any(record.lineage for record in search.known.values())
    assert sum("keeps its own weights after 3 epochs: there: is not whole" in line for line in lines) == 2
    assert any(
        "keeps its own weights" in record.error for record in Records(search.records.store).load().values()
    )


def test_the_leaderboard_names_the_lineage_and_the_best_job_is_the_run_that_there_is(tmp_path):
    search, _ = population(tmp_path, Runs())
    run_to_end(search)
    entries = leaderboard(search.spec, search.known.values())
    heir = next(entry for entry in entries if entry.lineage)
    record = search.known[heir.point_number]
    assert heir.lineage == [takeover_in_words(takeover) for takeover in record.lineage]
    assert heir.lineage[0].startswith(f"after {record.lineage[0].epoch} epochs from trial")
    assert heir.runs == [*(takeover.run for takeover in record.lineage), record.run]
    text = job_text(heir)
    assert text.startswith("# The last values of a population-based training")
    assert run_name(load_text(text)) == record.run
    assert record.run.startswith(f"look-{record.number:03d}-e{record.lineage[-1].epoch}-")


@pytest.mark.parametrize(
    ("form", "value", "factor", "expected"),
    [
        ({"uniform": (0.0, 1.0)}, 0.5, 1.2, 0.6),
        ({"uniform": (0.0, 1.0)}, 0.9, 1.2, 1.0),
        ({"loguniform": (0.1, 1.0)}, 0.11, 0.8, 0.1),
        ({"randint": (1, 100)}, 50, 0.8, 40),
        ({"randint": (1, 100)}, 2, 1.2, 3),  # 2.4 would be 2 again
        ({"randint": (1, 100)}, 1, 0.8, 1),
        ({"quniform": (0.0, 1.0, 0.25)}, 0.5, 1.2, 0.75),
        ({"quniform": (0.0, 1.0, 0.25)}, 1.0, 1.2, 1.0),
        ({"quniform": (0.0, 1.0, 0.1)}, 0.3, 0.8, 0.2),
        ({"choice": ("a", "b", "c")}, "b", 1.2, "c"),
        ({"choice": ("a", "b", "c")}, "a", 0.8, "a"),
        ({"choice": ([1, 2], [3, 4])}, [1, 2], 1.2, [3, 4]),
    ],
)
def test_a_value_moves_by_a_factor_a_step_or_to_its_neighbour_within_its_limits(
    form, value, factor, expected
):
    found = moved(DimensionSpec(**form), value, factor, factor > 1)
    assert found == pytest.approx(expected) if isinstance(expected, float) else found == expected
    assert type(found) is type(expected)


def test_mutated_points_depend_on_their_label_alone_and_are_drawn_anew_as_often_as_asked(tmp_path):
    spec = search_spec(tmp_path, "scheduler.resample_probability=0.5", text=POPULATION)
    point = {"method.temperature": 0.5}
    found = [mutated(spec, spec.population, point, f"look {n}")["method.temperature"] for n in range(400)]
    again = [mutated(spec, spec.population, point, f"look {n}")["method.temperature"] for n in range(400)]
    assert found == again
    kept = [value for value in found if any(math.isclose(value, 0.5 * f) for f in (0.8, 1.2))]
    assert 150 < len(kept) < 250
    assert 50 < sum(value < 0.5 for value in kept) < 150


def test_a_conditional_key_comes_and_goes_with_what_it_depends_on(tmp_path):
    space = POPULATION.partition("space:")[0] + (
        "space:\n"
        "  method.temperature: {choice: [0.1, 0.2]}\n"
        "  method.momentum: {uniform: [0.8, 0.9], when: {method.temperature: 0.2}}\n"
    )
    spec = search_spec(tmp_path, text=space)
    found = [mutated(spec, spec.population, {"method.temperature": 0.1}, str(n)) for n in range(40)]
    assert all(("method.momentum" in p) == (p["method.temperature"] == 0.2) for p in found)
    assert {p["method.temperature"] for p in found} == {0.1, 0.2}
