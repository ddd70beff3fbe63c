"""The six kinds: against recorded vectors of the published code, and against negatives that are built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from syn2co_ray.methods.draws import Draws, RowDraws
from syn2co_ray.methods.negatives import (
    KINDS,
    HardestPool,
    Negatives,
    Observed,
    Synthesized,
    draw_negatives,
    log_sum_exp,
    synthesize,
)
from syn2co_ray.methods.negatives import pool as pool_module
from syn2co_ray.methods.negatives.hardest import hardest_entries
from syn2co_ray.methods.queue import squared_length
from syn2co_ray.spec.negatives import NEGATIVE_KINDS, NegativesSpec

from ..golden_vectors import TOLERANCE, both_precisions
from . import plain_negatives

every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
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


def golden_problem(golden: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Queries with gradient, and the queue."""
    suffix = "f64" if dtype == torch.float64 else "f32"
    queue = golden.tensor("queue_f32", dtype)
    if dtype == torch.float64:
        queue = queue / queue.norm(dim=1, keepdim=True)
    return golden.tensor(f"q_{suffix}", dtype).requires_grad_(), queue


def source(rows: int, first_row: int = 0, device: str | torch.device = "cpu") -> RowDraws:
    return RowDraws(1, 2, first_row, rows, torch.device(device))


def recorded(
    q: Tensor,
    queue: Tensor,
    temperature: float,
    hardest: Tensor,
    drawn: Mapping[str, Draws],
    spec: NegativesSpec,
) -> tuple[Negatives, dict[str, Synthesized]]:
    """The product's log-sum-exp, with recorded pools (in their own order) and draws of some kinds."""
    made: dict[str, Synthesized] = {}

    def synthesize_recorded(pool: HardestPool, part: RowDraws) -> Mapping[str, Synthesized]:
        assert part.rows == len(q)
        pool = replace(pool, hardest=hardest)
        kinds = {name: KINDS[name].synthesize(pool, drawn[name], getattr(spec, name)) for name in drawn}
        made.update({name: replace(kind, logits=kind.logits.clone()) for name, kind in kinds.items()})
        return kinds

    negatives = log_sum_exp(
        q,
        (queue, squared_length(queue)),
        temperature,
        source(len(q)),
        hardest=hardest.shape[1],
        synthesize=synthesize_recorded,
    )
    return negatives, made


@pytest.mark.golden("strategies_*.npz")
@both_precisions
@pytest.mark.parametrize(
    ("name", "label", "sigma"),
    [(name, f"t{NUMBER[name]}", "sigma_a") for name in NEGATIVE_KINDS] + [("noise", "t4b", "sigma_b")],
    ids=[*NEGATIVE_KINDS, "noise_sigma_b"],
)
def test_kind_equals_published_code(
    golden: Any, dtype: torch.dtype, name: str, label: str, sigma: str
) -> None:
    q, queue = golden_problem(golden, dtype)
    spec = golden_spec(golden, sigma, int(golden.number("n")), int(golden.number("n_hard")))
    drawn = {name: golden_draws(golden, name)}
    negatives, made = recorded(q, queue, golden.number("T"), golden.index("topk_idx"), drawn, spec)
    negatives.log_sum_exp.sum().backward()

    close: dict[str, Any] = {"rtol": 0, "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(made[name].logits, golden.tensor(f"{label}_logits_f64", dtype), **close)
    torch.testing.assert_close(negatives.log_sum_exp, golden.tensor(f"{label}_lse_f64", dtype), **close)
    torch.testing.assert_close(q.grad, golden.tensor(f"{label}_grad_q_f64", dtype), **close)


@pytest.mark.golden("strategies_*.npz")
@both_precisions
def test_all_kinds_equal_published_code(golden: Any, dtype: torch.dtype) -> None:
    q, queue = golden_problem(golden, dtype)
    spec = golden_spec(golden, "sigma_a", int(golden.number("n")), int(golden.number("n_hard")))
    drawn = {name: golden_draws(golden, name) for name in KINDS}
    temperature = golden.number("T")
    negatives, made = recorded(q, queue, temperature, golden.index("topk_idx"), drawn, spec)
    k = golden.tensor("k_f64" if dtype == torch.float64 else "k_f32", dtype)
    positive = (q * k).sum(1)
    over_all = torch.logaddexp(negatives.log_sum_exp, positive / temperature)
    (of_sum,) = torch.autograd.grad(over_all.sum(), q, retain_graph=True)
    loss = (over_all - positive / temperature).mean()
    (of_loss,) = torch.autograd.grad(loss, q)
    logits = [positive.unsqueeze(1), q @ queue.T, *(made[name].logits for name in NEGATIVE_KINDS)]
    computed = {
        "full_logits_f64": torch.cat(logits, 1),
        "full_lse_f64": over_all,
        "full_grad_lse_q_f64": of_sum,
        "full_loss_f64": loss,
        "full_grad_loss_q_f64": of_loss,
    }
    for key, value in computed.items():
        expected = golden.tensor(key, dtype)
        torch.testing.assert_close(value, expected, rtol=0, atol=TOLERANCE[dtype], msg=key)


@pytest.mark.golden("strategies_*.npz")
@pytest.mark.parametrize("name", NEGATIVE_KINDS)
def test_oracle_builds_the_published_vectors(golden: Any, name: str) -> None:
    """All of them by two projections, and those that were recorded themselves."""
    q, queue = golden_problem(golden, torch.float64)
    spec, number = golden_spec(golden, "sigma_a", int(golden.number("n")), 1), NUMBER[name]
    entries = "t3_queue_idx1" if name == "mixup" else f"t{number}_queue_idx"
    n = queue[golden.index(entries)]
    other = queue[golden.index("t3_queue_idx2")]
    built = plain_negatives.vectors(name, q, n, other, golden_draws(golden, name), spec)
    ramp = torch.arange(built.shape[2], dtype=torch.float64) / built.shape[2]
    sketch = torch.stack([built.sum(2), built @ ramp], 2)
    torch.testing.assert_close(sketch, golden.tensor(f"t{number}_syn_sketch_f64"), rtol=0, atol=1e-12)
    whole = f"t{number}_syn_f64" in golden.keys()
    expected = golden.tensor(f"t{number}_syn_f64" if whole else f"t{number}_syn_part_f64")
    got = built if whole else built[:1, :8]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.golden("strategies_*.npz")
def test_pool_holds_the_published_hardest(golden: Any) -> None:
    q, queue = golden_problem(golden, torch.float64)
    hardest = hardest_entries((q @ queue.T).detach(), int(golden.number("n_hard")))
    assert torch.equal(hardest, golden.index("topk_idx").sort(dim=1).values)


@pytest.mark.golden("edge_*.npz")
@both_precisions
@pytest.mark.parametrize("name", NEGATIVE_KINDS)
def test_degenerate_vectors_equal_published_code(golden: Any, dtype: torch.dtype, name: str) -> None:
    """Equal, antipodal, sparse and zero queries; opposite entries: lengths of exactly zero occur."""
    q = golden.tensor("q_f64", dtype).requires_grad_()
    queue = golden.tensor("queue_f64", dtype)
    entries = golden.index("queue_idx")
    everything = torch.arange(len(queue)).expand(len(q), -1)
    draws = {
        "members": golden.index("t3_queue_idx1") if name == "mixup" else entries,
        "members_other": golden.index("t3_queue_idx2"),
        "alpha": torch.full(entries.shape, golden.number("alpha")),
        "beta": torch.full(entries.shape, golden.number("beta")),
        "gamma": torch.full(entries.shape, golden.number("gamma")),
        "normal": torch.zeros(*entries.shape, q.shape[1]),
    }
    spec = golden_spec(golden, "sigma", entries.shape[1], len(queue))
    negatives, made = recorded(q, queue, golden.number("T"), everything, {name: draws}, spec)
    negatives.log_sum_exp.sum().backward()
    assert q.grad is not None

    logits, number = made[name].logits, NUMBER[name]
    lengths = golden.tensor(f"t{number}_syn_f64").norm(dim=2)
    assert ((lengths > 0.999) | (lengths < 0.5)).all()
    expected = golden.tensor(f"t{number}_logits_f64", dtype)
    assert (logits - expected).abs().max() <= TOLERANCE[dtype]
    # Beside a vector of length zero the published gradient is that of a direction that is rounding noise.
    noisy = (lengths < 0.5).any(1)
    gradient_error = (q.grad - golden.tensor(f"t{number}_grad_q_f64", dtype)).abs().amax(1)
    assert (gradient_error[~noisy] <= TOLERANCE[dtype]).all()
    assert (gradient_error[noisy] <= 1e-4).all()


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


def product(
    q: Tensor, queue: Tensor, spec: NegativesSpec, temperature: float = 0.2, first_row: int = 0
) -> Tensor:
    """L(q) with draws of the product's own, (n,)."""

    def make(pool: HardestPool, part: RowDraws) -> Mapping[str, Synthesized]:
        return synthesize(pool, draw_negatives(part, "test", q.shape[1], spec), spec)

    return log_sum_exp(
        q,
        (queue, squared_length(queue)),
        temperature,
        source(len(q), first_row, q.device),
        hardest=spec.hardest,
        synthesize=make,
        widest=spec.noise.count,
    ).log_sum_exp


def oracle(q: Tensor, queue: Tensor, spec: NegativesSpec, temperature: float = 0.2) -> Tensor:
    """The same of built negatives, by autograd."""
    similarity = q @ queue.T
    hardest = similarity.detach().topk(spec.hardest, dim=1).indices.sort(dim=1).values
    drawn = draw_negatives(source(len(q), device=q.device), "test", q.shape[1], spec)
    logits = plain_negatives.synthesized_logits(q, queue, hardest, drawn, spec)
    return torch.logsumexp(torch.cat([similarity, *logits.values()], 1) / temperature, 1)


@pytest.mark.parametrize(
    ("rows", "size", "width"), [(1, 3, 2), (7, 40, 5), (70, 33, 16), (130, 200, 64)], ids=str
)
@every_device
def test_value_and_gradient_equal_those_of_built_negatives(
    rows: int, size: int, width: int, device: str
) -> None:
    raw, queue, spec = random_problem(rows + size, rows, size, width)
    raw, queue = raw.detach().to(device).requires_grad_(), queue.to(device)
    found = [function(F.normalize(raw, dim=1), queue, spec) for function in (product, oracle)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(value.mean(), raw)[0] for value in found]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    assert gradients[0].abs().max() > 1e-6 or rows == 1


def test_copying_entries_as_a_gpu_does_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, queue, spec = random_problem(9, 70, 90, 16)
    q = F.normalize(raw.detach(), dim=1)
    sampled = product(q, queue, spec)
    monkeypatch.setattr(pool_module, "_sampled_dots", pool_module._gathered_dots)
    monkeypatch.setattr(pool_module, "_PAIRS_ELEMENTS", 1000)
    torch.testing.assert_close(product(q, queue, spec), sampled, rtol=0, atol=1e-13)


def test_lengths_are_measured_not_assumed() -> None:
    """Queries and entries that are not of unit length still meet negatives that are."""
    raw, queue, spec = random_problem(5, 6, 30, 8)
    queue = queue * torch.linspace(0.3, 1.7, 30, dtype=torch.float64).unsqueeze(1)
    found = [function(raw * 0.3, queue, spec) for function in (product, oracle)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(value.mean(), raw)[0] for value in found]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, queue, spec = random_problem(6, 50, 40, 8)
    q = F.normalize(raw.detach(), dim=1)
    whole = product(q, queue, spec, first_row=5)
    for sort in ("_SIMILARITY_ELEMENTS", "_NOISE_ELEMENTS"):
        monkeypatch.setattr(f"syn2co_ray.methods.negatives.fused.{sort}", {"cpu": 1})
    torch.testing.assert_close(product(q, queue, spec, first_row=5), whole, rtol=0, atol=1e-13)


def test_autograd_keeps_one_tensor_of_the_queries_size() -> None:
    """Neither the similarity matrix nor any negative outlives the forward pass."""
    raw, queue, spec = random_problem(7, 32, 4000, 16)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    q = F.normalize(raw, dim=1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        product(q, queue, spec).sum()
    assert kept
    assert max(kept) <= q.numel()
    assert sum(kept) <= 3 * q.numel()


def test_compiled_gives_the_same() -> None:
    raw, queue, spec = random_problem(8, 20, 64, 8)
    raw, queue = raw.detach().float(), queue.float()
    spec = spec.model_copy(update={"hardest": 4})
    found = []
    for function in (product, torch.compile(product, backend="aot_eager")):
        q = F.normalize(raw, dim=1).requires_grad_()
        value = function(q, queue, spec)
        found.append((value.detach(), torch.autograd.grad(value.sum(), q)[0]))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "entries", "size"), [(3, 10, 10), (5, 100, 3), (4, 4096, 256), (2, 1000, 7), (1, 9, 2)]
)
def test_hardest_entries_are_the_largest_in_order_of_place(rows: int, entries: int, size: int) -> None:
    similarity = torch.randn(rows, entries, generator=torch.Generator().manual_seed(entries))
    expected = similarity.topk(size, dim=1).indices.sort(dim=1).values
    assert torch.equal(hardest_entries(similarity, size), expected)


def test_hardest_entries_of_equal_values_are_that_many_different_ones() -> None:
    similarity = torch.zeros(2, 100)
    similarity[:, 40:] = 1.0
    found = hardest_entries(similarity, 7)
    assert all(len(row.unique()) == 7 and (row >= 40).all() for row in found)


@pytest.mark.parametrize("numbers", [0, 3, 50, 100])
def test_hardest_entries_of_a_row_without_numbers_are_that_many_places(numbers: int) -> None:
    """The loss of such a row is not finite, which the training loop counts; the others must not notice."""
    similarity = torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    expected = hardest_entries(similarity, 7)
    similarity[1, numbers:] = torch.nan
    found = hardest_entries(similarity, 7)
    assert len(found[1].unique()) == 7
    assert (found[1] < 100).all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_low_dimensional_noise_has_the_distribution_of_full_noise() -> None:
    """Mean logit, its variance and the mean gradient, over 40,000 draws from one query."""
    generator = torch.Generator().manual_seed(3)
    width, sigma, count = 12, 0.3, 40_000
    q = F.normalize(torch.randn(1, width, generator=generator, dtype=torch.float64), dim=1)
    queue = F.normalize(torch.randn(1, width, generator=generator, dtype=torch.float64), dim=1)
    pool = HardestPool(q, queue, squared_length(queue), q @ queue.T, torch.zeros(1, 1, dtype=torch.int64))
    logits, vectors = {}, {}
    for draw in ("full", "low_dimensional"):
        noise = NegativesSpec(hardest=1, noise={"count": count, "sigma": sigma, "draw": draw}).noise
        made = KINDS["noise"].synthesize(pool, KINDS["noise"].draw(source(1), draw, 1, width, noise), noise)
        logits[draw] = made.logits[0]
        built = made.entries[0][1][0].unsqueeze(1) * queue
        if made.of_query is not None:
            built = built + made.of_query[0].unsqueeze(1) * q
        if made.of_vectors is not None:
            built = built + made.of_vectors[1][0].unsqueeze(1) * made.of_vectors[0][0].double()
        vectors[draw] = built
        torch.testing.assert_close(built @ q[0], made.logits[0], rtol=0, atol=1e-10)
    full, low = logits["full"], logits["low_dimensional"]
    error = 4 * full.std() * (2 / count) ** 0.5
    assert (full.mean() - low.mean()).abs() < error
    assert full.std().item() == pytest.approx(low.std().item(), rel=0.03)
    quantiles = torch.linspace(0.01, 0.99, 20, dtype=torch.float64)
    torch.testing.assert_close(full.quantile(quantiles), low.quantile(quantiles), rtol=0, atol=0.02)
    means = [vectors[draw].mean(0) for draw in ("full", "low_dimensional")]
    torch.testing.assert_close(*means, rtol=0, atol=0.01)
    assert vectors["low_dimensional"].var(0).sum() < 0.5 * vectors["full"].var(0).sum()


def test_telemetry_is_what_the_built_negatives_say() -> None:
    raw, queue, spec = random_problem(9, 30, 60, 8)
    q = F.normalize(raw.detach(), dim=1)
    generator = torch.Generator().manual_seed(0)
    positive = torch.rand(30, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 3, (30,), generator=generator)
    queue_labels = torch.randint(-1, 3, (60,), generator=generator)
    drawn = draw_negatives(source(30), "test", 8, spec)

    def make(pool: HardestPool, part: RowDraws) -> Mapping[str, Synthesized]:
        return synthesize(pool, draw_negatives(part, "test", 8, spec), spec)

    telemetry = log_sum_exp(
        q,
        (queue, squared_length(queue)),
        0.2,
        source(30),
        hardest=spec.hardest,
        synthesize=make,
        observed=Observed(positive, labels, queue_labels),
    ).telemetry
    hardest = hardest_entries(q @ queue.T, spec.hardest)
    logits = plain_negatives.synthesized_logits(q, queue, hardest, drawn, spec)
    blocks = {"queue": q @ queue.T, **logits}
    softmax = torch.softmax(torch.cat(list(blocks.values()), 1) / 0.2, 1)
    assert list(telemetry) == list(blocks)
    first = 0
    for name, block in blocks.items():
        mass = softmax[:, first : first + block.shape[1]].sum(1)
        first += block.shape[1]
        expected = {
            "logit": block.mean(1),
            "logit_max": block.amax(1),
            "harder": (block > positive.unsqueeze(1)).double().mean(1),
            "mass": mass,
        }
        for figure, value in expected.items():
            torch.testing.assert_close(telemetry[name][figure], value, rtol=0, atol=1e-12, msg=figure)
    members = hardest.gather(1, drawn["perturbed"]["members"])
    for row in range(30):
        known = [label for label in queue_labels[members[row]].tolist() if label >= 0]
        found = telemetry["perturbed"]["false_negatives"][row].item()
        if labels[row] >= 0 and known:
            assert found == pytest.approx(sum(label == labels[row] for label in known) / len(known))
        else:
            assert found != found
    shares = torch.stack([figures["gradient"] for figures in telemetry.values()])
    torch.testing.assert_close(shares.sum(0), torch.ones(30, dtype=torch.float64))
    # The queue's part, written out.
    pull = (softmax[:, :60].unsqueeze(2) * queue).sum(1)
    across = pull - (pull * q).sum(1, keepdim=True) * q
    s = plain_negatives.vectors(
        "noise", q, queue[hardest.gather(1, drawn["noise"]["members"])], q, drawn["noise"], spec
    )
    first = 60 + sum(logits[name].shape[1] for name in ("interpolated", "extrapolated", "mixup"))
    pull = (softmax[:, first : first + s.shape[1]].unsqueeze(2) * s).sum(1)
    noise = pull - (pull * q).sum(1, keepdim=True) * q
    ratio = telemetry["noise"]["gradient"] / telemetry["queue"]["gradient"]
    torch.testing.assert_close(ratio, noise.norm(dim=1) / across.norm(dim=1), rtol=1e-9, atol=0)


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
    spec = NegativesSpec(hardest=10, perturbed=20)
    members = draw_negatives(source(1000), "test", 4, spec)["perturbed"]["members"]
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
    product(F.normalize(raw, dim=1), queue, spec).sum().backward()
    assert raw.grad is not None
    assert queue.grad is None


def test_every_kind_of_the_spec_is_in_the_table() -> None:
    assert tuple(KINDS) == NEGATIVE_KINDS
