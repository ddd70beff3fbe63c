from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from syn2co_ray.methods.draws import RowDraws, seed_of, seeded_initialisation

CPU = torch.device("cpu")


KINDS: dict[str, Callable[[RowDraws], Tensor]] = {
    "uniform": lambda draws: draws.uniform("a", 3, low=2.0, high=5.0),
    "normal": lambda draws: draws.normal("a", 4, 5),
    "integers": lambda draws: draws.integers("a", 2, end=7),
    "chi_squared": lambda draws: draws.chi_squared("a", 3, degrees=6.0),
}


@pytest.mark.parametrize("cuts", [[0, 50], [0, 16, 50], [0, 7, 8, 33, 50], [0, 15, 17, 31, 32, 50]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_draws_the_same_in_any_split(kind: str, cuts: list[int]) -> None:
    whole = KINDS[kind](RowDraws(1, 2, 0, 50, CPU))
    parts = [KINDS[kind](RowDraws(1, 2, first, last - first, CPU)) for first, last in pairwise(cuts)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("rows_max", [1, 16, 20, 32, 1000])
@pytest.mark.parametrize(("first", "rows"), [(0, 64), (5, 3), (13, 40), (16, 16)])
def test_parts_are_the_rows_in_order_and_end_where_chunks_end(rows_max: int, first: int, rows: int) -> None:
    parts = list(RowDraws(1, 2, first, rows, CPU).parts(rows_max))
    assert [row for part in parts for row in range(part.first_row, part.first_row + part.rows)] == list(
        range(first, first + rows)
    )
    assert all((part.first_row + part.rows) % 16 == 0 for part in parts[:-1])
    assert all(part.rows <= max(rows_max, 16) for part in parts)


def test_draws_have_their_distributions() -> None:
    draws = RowDraws(1, 2, 0, 1000, CPU)
    uniform, integers = draws.uniform("a", 20, low=2.0, high=5.0), draws.integers("b", 20, end=7)
    assert (uniform.min() >= 2, uniform.max() < 5) == (True, True)
    assert uniform.mean().item() == pytest.approx(3.5, abs=0.03)
    assert torch.bincount(integers.flatten()).tolist() == pytest.approx([20_000 / 7] * 7, rel=0.06)
    normal, chi_squared = draws.normal("c", 20), draws.chi_squared("d", 20, degrees=6.0)
    assert (normal.mean().item(), normal.var().item()) == pytest.approx((0, 1), abs=0.04)
    assert (chi_squared.mean().item(), chi_squared.var().item()) == pytest.approx((6, 12), rel=0.05)


def test_seed_step_name_and_chunk_each_give_other_numbers() -> None:
    draws = [
        RowDraws(seed, step, 0, 32, CPU).normal(name, 3)
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
