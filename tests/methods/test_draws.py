from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Generator

from syn2co_ray.methods.draws import Draws, RowDraws, seed_of, seeded_initialisation

CPU = torch.device("cpu")


def normal_and_index(generator: Generator, rows: int) -> Draws:
    return {
        "normal": torch.randn(rows, 3, generator=generator),
        "index": torch.randint(100, (rows,), generator=generator),
    }


@pytest.mark.parametrize("cuts", [[0, 50], [0, 16, 50], [0, 7, 8, 33, 50], [0, 15, 17, 31, 32, 50]], ids=str)
def test_a_row_draws_the_same_in_any_split(cuts: list[int]) -> None:
    whole = RowDraws(1, 2, 0, 50, CPU).make("noise", normal_and_index)
    parts = [
        RowDraws(1, 2, first, last - first, CPU).make("noise", normal_and_index)
        for first, last in pairwise(cuts)
    ]
    for key in ("normal", "index"):
        assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])


def test_seed_step_name_and_chunk_each_give_other_numbers() -> None:
    draws = [
        RowDraws(seed, step, 0, 32, CPU).make(name, normal_and_index)["normal"]
        for seed, step, name in [(1, 2, "a"), (1, 2, "b"), (1, 3, "a"), (2, 2, "a"), (2, 1, "a")]
    ]
    assert not torch.equal(draws[0][:16], draws[0][16:])
    for index, first in enumerate(draws):
        for second in draws[index + 1 :]:
            assert not torch.equal(first, second)


def test_seeds_are_stable_and_unambiguous() -> None:
    assert seed_of(1, 2, "a", 3) == seed_of(1, 2, "a", 3) == 4950601934798176758
    assert seed_of(1, 23) != seed_of(12, 3)
    assert seed_of(1, "2") != seed_of(1, 2)


def test_initialisation_is_seeded_and_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()
    weights = []
    for seed in (0, 0, 1):
        with seeded_initialisation(seed, "part"):
            weights.append(torch.nn.Linear(4, 4).weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before)
