"""The pool of a live source: which shards each pass goes through, however fast they are made."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from syn2co_ray.generate.ledger import PoolLedger, publish_decisions, read_decisions, shards_of_run
from syn2co_ray.spec.generate import GeneratorSpec, PipelineSpec
from syn2co_ray.spec.live import LiveSpec
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store

PASSES = 12
GENERATOR = GeneratorSpec(pipeline=PipelineSpec(source="x"), images_per_shard=10)


def spec(**changes) -> LiveSpec:
    """Eight shards, two of which are new in each pass."""
    return LiveSpec(**{"share": 0.5, "generator": GENERATOR, "pool_images": 80, "uses": 4, **changes})


def made_at_once(ledger: PoolLedger) -> None:
    while shards := ledger.next_shards(()):
        ledger.add(shards[0])


@pytest.mark.parametrize("when_late", ["reuse", "wait"])
def test_a_generator_in_time_gives_every_image_its_uses_and_is_never_more_than_a_pass_ahead(when_late):
    ledger = PoolLedger(spec(when_late=when_late), PASSES)
    uses = Counter()
    for number in range(PASSES):
        made_at_once(ledger)
        assert len(ledger.made) <= 8 + 2 * number
        places = ledger.places(number)
        assert sorted(places) == list(range(2 * number, 2 * number + 8))
        uses.update(places)
    assert ledger.late_passes == 0
    # All but those of the first pool and of the last stay for four passes.
    assert {uses[shard] for shard in range(8, 2 * PASSES - 2)} == {4}
    assert len(ledger.made) == shards_of_run(ledger.live, PASSES) == 8 + 2 * (PASSES - 1)


def test_a_late_generator_makes_passes_go_through_old_images_and_stay_above_the_floor():
    ledger = PoolLedger(spec(floor_images=25), PASSES)
    assert ledger.places(0) is None
    for shard in (0, 2):
        ledger.add(shard)
    assert ledger.places(0) is None, "shard 1 lies between them: one shard is below the floor of three"
    ledger.add(1)
    first = ledger.places(0)
    assert len(first) == 8
    assert set(first) == {0, 1, 2}
    assert ledger.places(1) == first
    for shard in range(3, 9):
        ledger.add(shard)
    assert sorted(ledger.places(2)) == list(range(8)), "until it is full, the pool takes all there is"
    assert sorted(ledger.places(3)) == list(range(1, 9))
    assert ledger.late_passes == 2
    assert ledger.ready == 0


def test_waiting_decides_nothing_by_speed():
    rng = np.random.default_rng(0)
    expected = {number: list(range(2 * number, 2 * number + 8)) for number in range(PASSES)}
    for _ in range(5):
        ledger = PoolLedger(spec(when_late="wait"), PASSES)
        for number in range(PASSES):
            while (places := ledger.places(number)) is None:
                ledger.add(int(rng.choice(ledger.next_shards(()))))
            assert sorted(places) == expected[number]


def test_a_resumed_run_follows_what_was_decided_and_makes_what_it_needs_again(tmp_path):
    store = open_store(str(tmp_path), ObjectStoreSpec())
    before = PoolLedger(spec(), PASSES, keep=lambda decided: publish_decisions(store, decided))
    made_at_once(before)
    before.add(8)
    passes = [before.places(number) for number in range(3)]
    assert before.drop_before(2) == [0]
    kept = sorted(before.made - {5})
    after = PoolLedger(spec(), PASSES, made=kept, decided=read_decisions(store))
    assert after.next_shards(())[0] == 9
    assert after.places(2) is None
    assert after.next_shards(())[0] == 5, "what a pass waits for comes before what is new"
    assert after.next_shards({5})[0] == 9
    after.add(5)
    assert after.places(2) == passes[2]
    assert after.places(0) is None, "an earlier checkpoint needs what was dropped"
    after.add(0)
    assert after.places(0) == passes[0]


def test_shards_go_when_no_pass_needs_them():
    ledger = PoolLedger(spec(), PASSES)
    for number in range(4):
        made_at_once(ledger)
        ledger.places(number)
    assert ledger.drop_before(0) == []
    assert ledger.drop_before(3) == list(range(6))
    assert ledger.drop_before(3) == []
    assert sorted(ledger.places(3)) == list(range(6, 14))
    assert ledger.drop_before(9) == [], "a pass that is not decided needs who knows what"


def test_a_decision_that_could_not_be_kept_is_none() -> None:
    kept: list[list[int]] = []

    def keep(decided: list[int]) -> None:
        if not kept:
            kept.append([])
            raise OSError("the store is away")
        kept.append(decided)

    ledger = PoolLedger(spec(), PASSES, made=range(8), keep=keep)
    with pytest.raises(OSError, match="away"):
        ledger.places(0)
    assert ledger.decided == []
    assert ledger.places(0) is not None
    assert kept[-1] == ledger.decided
