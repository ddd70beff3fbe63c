"""Contract 1: the plan is a pure function, and a step trains on the same records whatever runs it."""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections import Counter

import numpy as np
import pytest

from syn2co_ray.data.plan import LivePool, Plan
from syn2co_ray.spec.source import ShareSchedule

FRAGMENTS = (np.array([100, 57, 31, 64, 90, 12, 77, 40]), np.array([33, 20, 41]))


def make(
    seed=0, shares=(None, None), images_per_epoch=None, batch=32, window=128, epochs=3, rows=FRAGMENTS
) -> Plan:
    return Plan(seed, epochs, batch, window, rows, shares, images_per_epoch)


def steps_of(plan: Plan, first_window: int = 0) -> dict[int, list[tuple[int, int, int, int]]]:
    """Step -> its records (source, fragment, row, repeat) in order, from this window to the end."""
    steps = {}
    for number in range(first_window, plan.total_windows):
        window = plan.window(number)
        records = [(read.source, read.fragment, int(row)) for read in window.reads for row in read.rows]
        assert sorted(window.take) == list(range(len(records)))
        batch = plan.images_per_step_global
        for offset in range(window.steps):
            places = range(offset * batch, (offset + 1) * batch)
            steps[window.first_step + offset] = [
                (*records[window.take[i]], int(window.repeat[i])) for i in places
            ]
    return steps


def test_every_step_is_there_once_and_has_its_size():
    plan = make()
    steps = steps_of(plan)
    assert sorted(steps) == list(range(plan.total_steps))
    assert {len(records) for records in steps.values()} == {32}


def test_an_epoch_passes_over_every_record_once_but_for_the_cut_off_rest():
    plan = make()
    steps = steps_of(plan)
    total = sum(int(rows.sum()) for rows in FRAGMENTS)
    for epoch in range(plan.epochs):
        seen = [r for s in range(plan.steps_per_epoch) for r in steps[epoch * plan.steps_per_epoch + s]]
        assert len(set(seen)) == len(seen) == plan.steps_per_epoch * 32 > total - 32


def test_same_seed_repeats_other_seed_and_other_epoch_differ():
    first, again, other = steps_of(make()), steps_of(make()), steps_of(make(seed=1))
    assert first == again
    assert first != other
    per_epoch = make().steps_per_epoch
    assert [first[s] for s in range(per_epoch)] != [first[per_epoch + s] for s in range(per_epoch)]


@pytest.mark.parametrize("share", [0.5, 0.05, 0.95, 1 / 3])
def test_share_holds_within_every_global_step_and_adds_up(share):
    plan = make(shares=(share, 1 - share), images_per_epoch=640)
    counts = [sum(1 for r in records if r[0] == 0) for records in steps_of(plan).values()]
    assert max(abs(count - 32 * share) for count in counts) <= 1
    running = np.cumsum(counts[: plan.steps_per_epoch])
    assert max(abs(running - 32 * share * np.arange(1, len(running) + 1))) <= 0.5 + 1e-9


def test_three_sources_hold_their_shares():
    rows = (np.array([200]), np.array([150]), np.array([90]))
    plan = make(shares=(0.3, 0.2, 0.5), rows=rows, images_per_epoch=400)
    for records in steps_of(plan).values():
        counts = np.bincount([r[0] for r in records], minlength=3)
        assert np.all(np.abs(counts - 32 * np.array([0.3, 0.2, 0.5])) <= 1.5)


def test_a_share_can_move_over_the_epochs():
    schedule = {"start": 0.0, "end": 0.5, "epochs": (1, 3)}
    generated = ShareSchedule(**schedule)
    real = ShareSchedule(start=1.0, end=0.5, epochs=(1, 3))
    plan = make(shares=(real, generated), images_per_epoch=640, epochs=5)
    counts = np.array([sum(r[0] for r in records) for records in steps_of(plan).values()])
    per_epoch = counts.reshape(5, plan.steps_per_epoch)
    assert [set(row.tolist()) for row in per_epoch] == [{0}, {0}, {8}, {16}, {16}]


def test_a_source_its_share_exhausts_starts_a_new_pass_in_another_order():
    plan = make(shares=(0.2, 0.8), images_per_epoch=471, epochs=1)
    records = [r for step in steps_of(plan).values() for r in step if r[0] == 1]
    assert len(records) > 94 * 3
    for number in range(3):
        assert len({r[:3] for r in records if r[3] == number}) == 94
    orders = [[r[:3] for r in records if r[3] == number] for number in (0, 1)]
    assert orders[0] != orders[1]


def test_order_inside_a_step_mixes_the_sources():
    plan = make(shares=(0.5, 0.5), images_per_epoch=320)
    halves = [sum(r[0] for r in records[:16]) for records in steps_of(plan).values()]
    assert min(halves) < 16
    assert max(halves) > 0
    assert 5 < np.mean(halves) < 11


@pytest.mark.parametrize("step", [0, 1, 5, 13, 14, 20, 41])
def test_window_of_step_holds_the_step(step):
    plan = make()
    window = plan.window(plan.window_of_step(step))
    assert window.first_step <= step < window.first_step + window.steps


def test_windows_can_be_asked_in_any_order():
    plan = make()
    backwards = {n: plan.window(n) for n in reversed(range(plan.total_windows))}
    for number in range(plan.total_windows):
        window = make().window(number)
        assert np.array_equal(window.take, backwards[number].take)
        assert [(r.source, r.fragment, r.rows.tolist()) for r in window.reads] == [
            (r.source, r.fragment, r.rows.tolist()) for r in backwards[number].reads
        ]


def test_neighbouring_windows_share_at_most_a_border_fragment_of_each_source():
    plan = make(epochs=1)
    reads = [{(r.source, r.fragment) for r in plan.window(n).reads} for n in range(plan.windows_per_epoch)]
    for left, right in itertools.pairwise(reads):
        assert len(left & right) <= len(FRAGMENTS)


def test_one_row_fragments_are_shuffled_over_the_whole_source():
    plan = make(rows=(np.ones(2000, dtype=int),), shares=(None,), window=64, epochs=1)
    first = [r[1] for r in steps_of(plan)[0]]
    assert max(first) - min(first) > 1000


def live_plan(share=0.25, epochs=6, pool=LivePool(shards=4, images_per_shard=10), window=128) -> Plan:
    rest = 1.0 - share if isinstance(share, float) else ShareSchedule(start=1.0, end=0.5, epochs=(1, 4))
    return Plan(3, epochs, 32, window, FRAGMENTS[:1], (rest, share), None, pool)


@pytest.mark.parametrize("share", [0.25, ShareSchedule(start=0.0, end=0.5, epochs=(1, 4))])
def test_a_live_source_is_gone_through_pass_after_pass_over_all_epochs(share):
    plan = live_plan(share)
    steps = steps_of(plan)
    live = [record for step in sorted(steps) for record in steps[step] if record[0] == 1]
    per_pass = Counter(record[1] // 4 for record in live)
    assert set(per_pass) == set(range(plan.live_passes))
    assert {per_pass[number] for number in range(plan.live_passes - 1)} == {40}
    assert len(set(live)) == len(live), "a record has one use in a pass, and each use a repeat of its own"
    for step in range(plan.total_steps + 1):
        before = sum(record[0] == 1 for s in range(step) for record in steps[s])
        assert plan.live_images_before(step) == before
    for number in range(plan.total_windows - 1):
        both = [*plan.window(number).reads, *plan.window(number + 1).reads]
        passes = {read.fragment // 4 for read in both if read.source == 1} or {0}
        assert max(passes) - min(passes) <= plan.live_passes_ahead


def test_an_epoch_is_as_long_as_the_stored_records():
    assert live_plan().steps_per_epoch == sum(FRAGMENTS[0]) // 32


def test_a_live_source_alone():
    plan = Plan(0, 2, 32, 64, (), (1.0,), 100, LivePool(shards=2, images_per_shard=16))
    assert plan.total_steps == 6
    assert plan.live_passes == 6
    assert {record[0] for records in steps_of(plan).values() for record in records} == {0}


MANY_FRAGMENTS = (np.full(70_000, 3), np.arange(1, 300))
FROZEN = {
    "own parts": (make(), "5790deb0f88dc085"),
    "shares, several passes": (make(seed=7, shares=(0.2, 0.8), images_per_epoch=471), "035cb5dcfdaf922a"),
    "a moving share and a live source": (
        live_plan(ShareSchedule(start=0.0, end=0.5, epochs=(1, 4))),
        "ce34be5e65bfbecd",
    ),
    "many fragments": (make(seed=1, rows=MANY_FRAGMENTS, batch=4096, window=65536), "cb75df98a26f2052"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_the_order_of_a_seed_is_the_one_it_always_was(name):
    """Hashes of all windows, made 2026-11-21: another one means that no stopped run can be resumed."""
    plan, expected = FROZEN[name]
    digest = hashlib.sha256()
    for number in range(plan.total_windows):
        window = plan.window(number)
        reads = [(read.source, read.fragment, read.rows.tolist()) for read in window.reads]
        places = window.take.tolist(), window.repeat.tolist()
        digest.update(repr((window.epoch, window.first_step, window.steps, reads, *places)).encode())
    assert digest.hexdigest()[:16] == expected


def test_a_plan_travels_without_the_orders_it_has_drawn():
    plan = make(rows=MANY_FRAGMENTS)
    drawn = plan.window(3)
    given = sum(rows.nbytes for rows in MANY_FRAGMENTS)
    assert len(pickle.dumps(plan)) < given + 2000
    again = pickle.loads(pickle.dumps(plan)).window(3)
    assert np.array_equal(drawn.take, again.take)
    assert [read.fragment for read in drawn.reads] == [read.fragment for read in again.reads]
