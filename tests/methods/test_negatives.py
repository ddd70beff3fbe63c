"""The six kinds: against recorded vectors of the published code, and against negatives that are built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from syn2co_ray.methods.draws import RowDraws
from syn2co_ray.methods.losses import info_nce
from syn2co_ray.methods.negatives import KINDS, HardestPool, draw_negatives, synthesized_logits
from syn2co_ray.methods.negatives.pool import draw_members
from syn2co_ray.spec.negatives import NEGATIVE_KINDS, NegativesSpec

TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}
NUMBER = {name: number for number, name in enumerate(NEGATIVE_KINDS, 1)}


def golden_spec(golden: Any, sigma: str, count: int, hardest: int) -> NegativesSpec:
    return NegativesSpec(
        hardest=hardest,
        interpolated=count,
        extrapolated=count,
        mixup=count,
        noise={"count": count, "sigma": golden.number(sigma)},
        perturbed={"count": count, "delta": golden.number("delta")},
        adversarial={"count": count, "eta": golden.number("eta")},
    )


def golden_draws(golden: Any, name: str) -> dict[str, Tensor]:
    """Recorded draws of a kind; positions in the pool stay as recorded."""
    number = NUMBER[name]
    if name == "mixup":
        members = {
            "members": golden.index("t3_draw_idx1"),
            "members_other": golden.index("t3_draw_idx2"),
            "gamma": golden.tensor("t3_gamma"),
        }
        return members
    extra = {
        "interpolated": lambda: {"alpha": golden.tensor("t1_alpha")},
        "extrapolated": lambda: {"beta": golden.tensor("t2_beta")},
        "noise": lambda: {"normal": golden.tensor("t4_z")},
    }
    return {"members": golden.index(f"t{number}_draw_idx"), **extra.get(name, dict)()}


def golden_pool(golden: Any, dtype: torch.dtype) -> HardestPool:
    suffix = "f64" if dtype == torch.float64 else "f32"
    q = golden.tensor(f"q_{suffix}", dtype).requires_grad_()
    queue = golden.tensor("queue_f32", dtype)
    if dtype == torch.float64:
        queue = queue / queue.norm(dim=1, keepdim=True)
    return HardestPool(q, queue, q @ queue.T, golden.index("topk_idx"))


@pytest.mark.golden("strategies_*.npz")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(
    ("name", "label", "sigma"),
    [(name, f"t{NUMBER[name]}", "sigma_a") for name in NEGATIVE_KINDS] + [("noise", "t4b", "sigma_b")],
    ids=[*NEGATIVE_KINDS, "noise_sigma_b"],
)
def test_kind_equals_published_code(
    golden: Any, dtype: torch.dtype, name: str, label: str, sigma: str
) -> None:
    pool, temperature = golden_pool(golden, dtype), golden.number("T")
    spec = golden_spec(golden, sigma, int(golden.number("n")), int(golden.number("n_hard")))
    logits = KINDS[name].logits(pool, golden_draws(golden, name), getattr(spec, name))
    normaliser = torch.logsumexp(torch.cat([pool.similarity, logits], 1) / temperature, 1)
    normaliser.sum().backward()

    close: dict[str, Any] = {"rtol": 0, "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(logits, golden.tensor(f"{label}_logits_f64", dtype), **close)
    torch.testing.assert_close(normaliser, golden.tensor(f"{label}_lse_f64", dtype), **close)
    torch.testing.assert_close(pool.q.grad, golden.tensor(f"{label}_grad_q_f64", dtype), **close)


@pytest.mark.golden("strategies_*.npz")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_all_kinds_loss_equals_published_code(golden: Any, dtype: torch.dtype) -> None:
    pool = golden_pool(golden, dtype)
    spec = golden_spec(golden, "sigma_a", int(golden.number("n")), int(golden.number("n_hard")))
    logits = synthesized_logits(pool, {name: golden_draws(golden, name) for name in KINDS}, spec)
    k = golden.tensor("k_f64" if dtype == torch.float64 else "k_f32", dtype)
    blocks = [pool.similarity, *logits.values()]
    loss = info_nce((pool.q * k).sum(1), blocks, golden.number("T")).mean()
    loss.backward()

    close: dict[str, Any] = {"rtol": 0, "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(loss, golden.tensor("full_loss_f64", dtype), **close)
    torch.testing.assert_close(pool.q.grad, golden.tensor("full_grad_loss_q_f64", dtype), **close)


@pytest.mark.golden("strategies_*.npz")
def test_pool_holds_the_published_hardest(golden: Any) -> None:
    given = golden_pool(golden, torch.float64)
    pool = HardestPool.of(given.q, given.queue, given.similarity, int(golden.number("n_hard")))
    assert torch.equal(pool.hardest, given.hardest.sort(dim=1).values)


@pytest.mark.golden("edge_*.npz")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NEGATIVE_KINDS)
def test_degenerate_vectors_equal_published_code(golden: Any, dtype: torch.dtype, name: str) -> None:
    """Equal, antipodal, sparse and zero queries; opposite entries: lengths of exactly zero occur."""
    q = golden.tensor("q_f64", dtype).requires_grad_()
    queue = golden.tensor("queue_f64", dtype)
    entries = golden.index("queue_idx")
    everything = torch.arange(len(queue)).expand(len(q), -1)
    pool = HardestPool(q, queue, q @ queue.T, everything)
    draws = {
        "members": golden.index("t3_queue_idx1") if name == "mixup" else entries,
        "members_other": golden.index("t3_queue_idx2"),
        "alpha": torch.full(entries.shape, golden.number("alpha")),
        "beta": torch.full(entries.shape, golden.number("beta")),
        "gamma": torch.full(entries.shape, golden.number("gamma")),
        "normal": torch.zeros(*entries.shape, q.shape[1]),
    }
    spec = golden_spec(golden, "sigma", entries.shape[1], len(queue))
    logits = KINDS[name].logits(pool, draws, getattr(spec, name))
    normaliser = torch.logsumexp(torch.cat([pool.similarity, logits], 1) / golden.number("T"), 1)
    normaliser.sum().backward()

    number = NUMBER[name]
    # Next to a vector of length zero the direction is rounding noise, in any formulation.
    lengths = golden.tensor(f"t{number}_syn_f64").norm(dim=2)
    assert ((lengths > 0.999) | (lengths < 0.5)).all()
    noisy = lengths < 0.5
    expected = golden.tensor(f"t{number}_logits_f64", dtype)
    error = (logits - expected).abs()
    assert error[~noisy].max() <= TOLERANCE[dtype]
    assert (error[noisy] <= (1e-12 if dtype == torch.float64 else 1e-3)).all()
    gradient_error = (q.grad - golden.tensor(f"t{number}_grad_q_f64", dtype)).abs().amax(1)
    assert (gradient_error[~noisy.any(1)] <= TOLERANCE[dtype]).all()
    assert (gradient_error[noisy.any(1)] <= (1e-4 if dtype == torch.float64 else 1e-3)).all()


def built(name: str, q: Tensor, n: Tensor, other: Tensor, draws: dict[str, Tensor], kind: Any) -> Tensor:
    """The negatives as SynCo section 3 writes them: (n, count, C), unit length, no gradient."""
    q = q.detach().unsqueeze(1)

    def coefficient(key: str) -> Tensor:
        return draws[key].to(q.dtype).unsqueeze(2)

    formula: dict[str, Callable[[], Tensor]] = {
        "interpolated": lambda: coefficient("alpha") * q + (1 - coefficient("alpha")) * n,
        "extrapolated": lambda: q + coefficient("beta") * (n - q),
        "mixup": lambda: coefficient("gamma") * n + (1 - coefficient("gamma")) * other,
        "noise": lambda: n + kind.sigma * draws["normal"].to(q.dtype),
        "perturbed": lambda: n + kind.delta * q,
        "adversarial": lambda: n + kind.eta * q.sign(),
    }
    return F.normalize(formula[name](), dim=2)


def random_problem(seed: int, rows: int, size: int, width: int) -> tuple[Tensor, Tensor, NegativesSpec]:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(rows, width, generator=generator, dtype=torch.float64).requires_grad_()
    queue = F.normalize(torch.randn(size, width, generator=generator, dtype=torch.float64))
    spec = NegativesSpec(
        hardest=max(1, size // 3),
        interpolated={"count": 5, "alpha_max": 0.9},
        extrapolated={"count": 3, "beta_max": 2.5},
        mixup={"count": 4, "gamma_max": 0.7},
        noise={"count": 2, "sigma": 0.3},
        perturbed={"count": 6, "delta": 0.4},
        adversarial={"count": 1, "eta": 0.2},
    )
    return raw, queue, spec


@pytest.mark.parametrize(
    ("rows", "size", "width"), [(1, 3, 2), (7, 40, 5), (70, 33, 16), (130, 200, 64)], ids=str
)
def test_loss_and_gradient_equal_those_of_built_negatives(rows: int, size: int, width: int) -> None:
    raw, queue, spec = random_problem(rows + size, rows, size, width)
    drawn = draw_negatives(RowDraws(1, 2, 0, rows, torch.device("cpu")), "test", width, spec)

    def loss_of(algebraic: bool) -> Tensor:
        q = F.normalize(raw, dim=1)
        pool = HardestPool.of(q, queue, q @ queue.T, spec.hardest)
        if algebraic:
            logits = list(synthesized_logits(pool, drawn, spec).values())
        else:
            logits = []
            for name, kind in spec.kinds().items():
                n = queue[pool.entries(drawn[name]["members"])]
                other = queue[pool.entries(drawn[name].get("members_other", drawn[name]["members"]))]
                s = built(name, q, n, other, drawn[name], kind)
                logits.append((q.unsqueeze(1) * s).sum(2))
        positive = (q * queue[0]).sum(1)
        return info_nce(positive, [pool.similarity, *logits], 0.2).mean()

    fast, plain = loss_of(algebraic=True), loss_of(algebraic=False)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(loss, raw)[0] for loss in (fast, plain)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    assert gradients[0].abs().max() > 1e-6 or rows == 1


def test_lengths_are_measured_not_assumed() -> None:
    """Queries and entries that are not of unit length still give the normalised negative's logit."""
    raw, queue, spec = random_problem(5, 6, 30, 8)
    q, queue = raw.detach() * 0.3, queue * 1.7
    pool = HardestPool.of(q, queue, q @ queue.T, spec.hardest)
    drawn = draw_negatives(RowDraws(1, 2, 0, 6, torch.device("cpu")), "test", 8, spec)
    logits = synthesized_logits(pool, drawn, spec)
    for name, kind in spec.kinds().items():
        n = queue[pool.entries(drawn[name]["members"])]
        other = queue[pool.entries(drawn[name].get("members_other", drawn[name]["members"]))]
        expected = (q.unsqueeze(1) * built(name, q, n, other, drawn[name], kind)).sum(2)
        torch.testing.assert_close(logits[name], expected, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("name", NEGATIVE_KINDS)
def test_count_of_one_kind_leaves_the_others_alone(name: str) -> None:
    """The published code switches kinds off by each other's counts; here each has its own."""
    counts = dict.fromkeys(NEGATIVE_KINDS, 3)
    all_kinds = NegativesSpec(hardest=4, **counts)
    without = NegativesSpec(hardest=4, **{**counts, name: 0})
    source = RowDraws(1, 2, 0, 5, torch.device("cpu"))
    drawn = draw_negatives(source, "test", 8, without)
    assert set(drawn) == set(NEGATIVE_KINDS) - {name}
    full = draw_negatives(source, "test", 8, all_kinds)
    for other in drawn:
        for key, value in drawn[other].items():
            assert torch.equal(value, full[other][key])


def test_draws_have_the_stated_ranges_and_only_noise_is_wide() -> None:
    spec = NegativesSpec(
        hardest=9,
        interpolated={"count": 50, "alpha_max": 0.4},
        extrapolated={"count": 50, "beta_max": 1.2},
        mixup={"count": 50, "gamma_max": 0.6},
        noise=50,
        perturbed=50,
        adversarial=50,
    )
    drawn = draw_negatives(RowDraws(0, 0, 0, 40, torch.device("cpu")), "test", 16, spec)
    ranges = {
        ("interpolated", "alpha"): (0.0, 0.4),
        ("extrapolated", "beta"): (1.0, 1.2),
        ("mixup", "gamma"): (0.0, 0.6),
    }
    for (name, key), (low, high) in ranges.items():
        values = drawn[name][key]
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
    wide = {(name, key) for name, draws in drawn.items() for key, value in draws.items() if value.ndim == 3}
    assert wide == {("noise", "normal")}
    assert drawn["noise"]["normal"].shape == (40, 50, 16)


def test_members_are_uniform_with_replacement() -> None:
    members = draw_members(torch.Generator().manual_seed(0), 1000, 10, 20)
    share = torch.bincount(members.flatten(), minlength=10) / members.numel()
    assert share.shape == (10,)
    # 20000 draws: the standard deviation of a share is 0.0021.
    assert (share - 0.1).abs().max() < 0.01
    assert all(len(row.unique()) < 20 for row in members)


def test_kinds_draw_their_members_independently() -> None:
    spec = NegativesSpec(hardest=50, **dict.fromkeys(NEGATIVE_KINDS, 30))
    drawn = draw_negatives(RowDraws(0, 0, 0, 8, torch.device("cpu")), "test", 4, spec)
    members = [draws["members"] for draws in drawn.values()] + [drawn["mixup"]["members_other"]]
    for index, first in enumerate(members):
        for second in members[index + 1 :]:
            assert (first == second).float().mean() < 0.2


def test_the_queue_gets_no_gradient() -> None:
    raw, queue, spec = random_problem(5, 6, 30, 8)
    queue.requires_grad_()
    q = F.normalize(raw.detach(), dim=1)
    pool = HardestPool.of(q, queue, (q @ queue.T).detach(), spec.hardest)
    drawn = draw_negatives(RowDraws(1, 2, 0, 6, torch.device("cpu")), "test", 8, spec)
    logits = synthesized_logits(pool, drawn, spec)
    assert not any(value.requires_grad for value in logits.values())


def test_every_kind_of_the_spec_is_in_the_table() -> None:
    assert tuple(KINDS) == NEGATIVE_KINDS
