"""Synthesized negatives: time and memory of the loss, ours beside a plain and a per-negative formulation.

    python tests/benchmarks/bench_negatives.py [--quick]

Forward and backward of one direction, draws included, at the published settings of SynBY and SynCo:

    a  infonce   InfoNCE against the queue alone
    b  ours      the product's path: fused, only dL/dq is kept, no vector built but the noise
       low-dim   the same with noise: {draw: low_dimensional}
       observed  the same in a step that telemetry looks at (one in 20)
    c  built     the plain oracle of the tests: every negative built, normalised and multiplied, in one piece
    d  loop      as the published code goes about it: entries gathered once a kind from a queue in its layout
                 ((C, K) in SynBY, (K, C) in SynCo), then one autograd call for each perturbed and each
                 adversarial negative

Rounds take turns; time is the median: on one thread of CPU seconds of the process (other work on the machine
does not count), on two of elapsed seconds. Memory is how far the resident peak of a process of its own rises over
its second pass (on a GPU: allocated peak). On a GPU the ratio of times is that of elapsed seconds between
synchronisations. A last row compares whole training steps, MoBY, SynBY, and SynBY with telemetry (goal: under 1 % of
a step, one being observed in 20).

Goals: 10 (SynBY) and 4 times (SynCo) faster than d on one CPU thread, 20 on a GPU; 1/7 and 1/5 of its memory; at
most 2 % of a DeiT-S step.

Predicted before fusing (the form before kept similarity matrix and softmax for autograd): 10 and 4 times, since
a prototype had 7 to 10 and 2.4 to 3.4. Then, by profile, each predicted first and kept as it measured better:
lengths as entries of a product instead of copies of queue entries (predicted and found at SynBY's sizes: a fifth
less time); larger blocks at SynCo's sizes, where a queue is read again for each (a fifth less); noise in parts of
64 rows instead of 16, and the hardest entries by the smallest of them (predicted: 5 ms of 25 and 10 of 80; found
2026-11-22 at N 64: 25 -> 20 and 80 -> 65, at N 256: 96 -> 79 and 305 -> 249).

Found against d: 8.9 and 13.2 times at SynBY's sizes, 2.4 and 3.9 at SynCo's. (Until then d gathered columns of the
queue for each negative and normalised twice, which made it slower than what is published: its 11 and 5.5 times
were wrong.) What bounds it: at SynBY's sizes and N 64, of 20 ms 6.7 are normal draws, nearly all in the one-thread
Mersenne Twister, and 4 InfoNCE; at SynCo's, of 63 ms InfoNCE alone is 41, 35 of them in two products with the queue,
so that 4 times faster than d (43 to 45 ms) would be no slower than no negatives at all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from syn2co_ray.methods import StepContext, build_method
from syn2co_ray.methods.contract import Method
from syn2co_ray.methods.draws import RowDraws
from syn2co_ray.methods.embedding_stats import embedding_stats
from syn2co_ray.methods.negatives import (
    HardestPool,
    Negatives,
    Observed,
    Synthesized,
    draw_negatives,
    log_sum_exp,
    synthesize,
)
from syn2co_ray.methods.queue import squared_length
from syn2co_ray.spec.method import MobySpec
from syn2co_ray.spec.negatives import NEGATIVE_KINDS, NegativesSpec
from syn2co_ray.train.trainer import TELEMETRY_EVERY_STEPS
from tests.methods import plain_negatives

TEMPERATURE = 0.2


@dataclass(frozen=True)
class Setting:
    """Sizes of one published setting."""

    name: str
    rows: int
    width: int
    queue_size: int
    hardest: int
    counts: tuple[int, ...]
    stored_by_column: bool
    """Whether the published code keeps this setting's queue as (C, K)."""

    @property
    def spec(self) -> NegativesSpec:
        counts = dict(zip(NEGATIVE_KINDS, self.counts, strict=True))
        return NegativesSpec.model_validate({"hardest": self.hardest, **counts})


SYNBY, SYNCO = (128,) * 6, (256, 256, 256, 64, 64, 64)
SETTINGS = [
    Setting("SynBY, N 64", 64, 256, 4096, 256, SYNBY, True),
    Setting("SynBY, N 256", 256, 256, 4096, 256, SYNBY, True),
    Setting("SynCo, N 64", 64, 128, 65536, 1024, SYNCO, False),
    Setting("SynCo, N 256", 256, 128, 65536, 1024, SYNCO, False),
]


@dataclass(frozen=True)
class Problem:
    """Unit queries and keys, the queue in both layouts, and the draws' source."""

    setting: Setting
    q: Tensor
    k: Tensor
    queue: Tensor
    queue_squared: Tensor
    queue_columns: Tensor
    draws: RowDraws


def problem(setting: Setting, device: torch.device) -> Problem:
    generator = torch.Generator().manual_seed(0)

    def unit_rows(rows: int) -> Tensor:
        return F.normalize(torch.randn(rows, setting.width, generator=generator)).to(device)

    queue = unit_rows(setting.queue_size)
    draws = RowDraws(0, 0, 0, setting.rows, device)
    q, k = unit_rows(setting.rows), unit_rows(setting.rows)
    return Problem(setting, q.requires_grad_(), k, queue, squared_length(queue), queue.T.contiguous(), draws)


def infonce(p: Problem) -> Tensor:
    """The product's path without any kind."""
    return _info_nce(p, log_sum_exp(p.q, (p.queue, p.queue_squared), TEMPERATURE, p.draws))


def ours(p: Problem) -> Tensor:
    return _fused(p, p.setting.spec)


def low_dimensional(p: Problem) -> Tensor:
    """Ours with `noise: {draw: low_dimensional}`."""
    spec = p.setting.spec
    noise = spec.noise.model_copy(update={"draw": "low_dimensional"})
    return _fused(p, spec.model_copy(update={"noise": noise}))


def observed(p: Problem) -> Tensor:
    """Ours in a step that telemetry looks at."""
    labels = torch.zeros(p.setting.queue_size, dtype=torch.int64, device=p.q.device)
    seen = Observed((p.q * p.k).sum(1).detach(), labels[: p.setting.rows], labels)
    return _fused(p, p.setting.spec, seen)


def _fused(p: Problem, spec: NegativesSpec, seen: Observed | None = None) -> Tensor:
    def make(pool: HardestPool, part: RowDraws) -> Mapping[str, Synthesized]:
        return synthesize(pool, draw_negatives(part, "view_1", p.setting.width, spec), spec)

    widest = spec.noise.count if spec.noise.draw == "full" else 0
    queue = (p.queue, p.queue_squared)
    negatives = log_sum_exp(
        p.q,
        queue,
        TEMPERATURE,
        p.draws,
        hardest=spec.hardest,
        synthesize=make,
        widest=widest,
        observed=seen,
    )
    return _info_nce(p, negatives)


def _info_nce(p: Problem, negatives: Negatives) -> Tensor:
    positive = (p.q * p.k).sum(1) / TEMPERATURE
    return (torch.logaddexp(negatives.log_sum_exp, positive) - positive).mean()


def built(p: Problem) -> Tensor:
    spec = p.setting.spec
    similarity = p.q @ p.queue.T
    hardest = similarity.detach().topk(spec.hardest, dim=1).indices
    drawn = draw_negatives(p.draws, "view_1", p.setting.width, spec)
    logits = plain_negatives.synthesized_logits(p.q, p.queue, hardest, drawn, spec)
    positive = (p.q * p.k).sum(1)
    return plain_negatives.info_nce(positive, [similarity, *logits.values()], TEMPERATURE).mean()


def loop(p: Problem) -> Tensor:
    """Entries are gathered once a kind, in the queue's published layout; then one negative after the other."""
    spec = p.setting.spec
    rows = p.queue_columns.T if p.setting.stored_by_column else p.queue
    similarity = torch.einsum("nc,kc->nk", p.q, rows.clone().detach())
    hardest = similarity.detach().clone().topk(spec.hardest, dim=1, sorted=False).indices
    blocks = [similarity]
    for name, drawn in draw_negatives(p.draws, "view_1", p.setting.width, spec).items():
        n = rows[hardest.gather(1, drawn["members"])].clone()
        if name in ("perturbed", "adversarial"):
            moved = [_moved(p.q, n[:, i], name, spec) for i in range(n.shape[1])]
            vectors = F.normalize(torch.stack(moved, dim=1), dim=2)
        else:
            other = n
            if "members_other" in drawn:
                other = rows[hardest.gather(1, drawn["members_other"])].clone()
            vectors = plain_negatives.vectors(name, p.q.detach(), n, other, drawn, spec)
        blocks.append(torch.einsum("nc,nkc->nk", p.q, vectors.detach()))
    return plain_negatives.info_nce((p.q * p.k).sum(1), blocks, TEMPERATURE).mean()


def _moved(q: Tensor, entries: Tensor, name: str, spec: NegativesSpec) -> Tensor:
    """One negative a query, moved along the gradient that autograd finds."""
    n = entries.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.einsum("nc,nc->n", q, n).sum(), n)
    if name == "perturbed":
        return (n + spec.perturbed.delta * gradient).detach()
    return (n + spec.adversarial.eta * gradient.sign()).detach()


VARIANTS: dict[str, Callable[[Problem], Tensor]] = {
    "infonce": infonce,
    "ours": ours,
    "low-dim": low_dimensional,
    "observed": observed,
    "built": built,
    "loop": loop,
}


def one_pass(p: Problem, variant: str) -> Tensor:
    p.q.grad = None
    VARIANTS[variant](p).backward()
    assert p.q.grad is not None
    return p.q.grad


def seconds_of(p: Problem, rounds: int) -> dict[str, float]:
    """Median of each variant."""
    on_gpu = p.q.device.type == "cuda"
    clock = time.process_time if torch.get_num_threads() == 1 and not on_gpu else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds + 1):
        for name in VARIANTS:
            started = clock()
            one_pass(p, name)
            if on_gpu:
                torch.cuda.synchronize()
            if number:  # the first round warms up
                taken[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def _rise(setting: Setting, variant: str) -> float:
    """MiB by which the resident peak rises in one pass (Linux)."""
    torch.set_num_threads(1)
    p = problem(setting, torch.device("cpu"))
    one_pass(p, variant)  # libraries and code that load at the first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    before = _resident("VmRSS")
    one_pass(p, variant)
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def mebibytes_of(setting: Setting, device: torch.device) -> dict[str, float]:
    if device.type == "cuda":
        found = {}
        for name in VARIANTS:
            p = problem(setting, device)
            one_pass(p, name)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            one_pass(p, name)
            found[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
        return found
    # Every larger block gets pages of its own and gives them back, so that the peak is what was in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {name: pool.apply(_rise, (setting, name)) for name in VARIANTS}


def check(p: Problem) -> None:
    """All formulations have one gradient; perturbed and adversarial members differ in nothing else."""
    gradients = [one_pass(p, name).clone() for name in ("ours", "built", "loop")]
    for gradient in gradients[1:]:
        # topk orders differ between them, and draws are positions: sums over many negatives stay close.
        cosine = F.cosine_similarity(gradient.flatten(), gradients[0].flatten(), dim=0).item()
        if cosine < 0.999:
            sys.exit(f"gradients disagree: cosine {cosine:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small batches and few rounds")
    quick = parser.parse_args().quick
    settings = [s for s in SETTINGS if s.rows == 64] if quick else SETTINGS
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    header = "".join(f"{name:>10}" for name in VARIANTS)
    print(f"{'setting':<14}{'device':<12}{'':<10}{header}{'d / b':>8}{'c / b':>8}")
    for device in devices:
        for setting in settings:
            for threads in (1, 2) if device.type == "cpu" else (1,):
                torch.set_num_threads(threads)
                p = problem(setting, device)
                check(p)
                times = seconds_of(p, 3 if quick else 9)
                on_cpu = device.type == "cpu"
                where = f"cpu, {threads} thr" if on_cpu else "cuda"
                _row(setting.name, where, "CPU ms" if on_cpu and threads == 1 else "ms", times, 1000)
            _row(setting.name, device.type, "peak MiB", mebibytes_of(setting, device), 1)
        torch.set_num_threads(1)
        training_steps(device)


def training_steps(device: torch.device) -> None:
    """Whole steps of MoBY and SynBY without the optimizer, and what telemetry adds: medians of rounds in turn.

    On a GPU DeiT-S, 256 images, bf16; on a CPU the small ViT of jobs/cifar10_table, 128 images of 32 pixels.
    """
    on_gpu = device.type == "cuda"
    size, images = (224, 256) if on_gpu else (32, 128)
    small = {"patch_size": 8, "backbone_options": {"embed_dim": 128, "depth": 4, "num_heads": 4}}
    backbone = (
        {"backbone": "deit_small_patch16_224"} if on_gpu else {"backbone": "vit_tiny_patch16_224", **small}
    )
    negatives = {"hardest": 256, **dict.fromkeys(NEGATIVE_KINDS, 128)}
    specs = {
        "moby": MobySpec.model_validate({**backbone, "framework": "moby"}),
        "synby": MobySpec.model_validate({**backbone, "framework": "synby", "negatives": negatives}),
    }
    methods = {name: build_method(spec, size, 0).to(device) for name, spec in specs.items()}
    ways = {"moby": ("moby", False), "synby": ("synby", False), "observed": ("synby", True)}
    views = [torch.randn(images, 3, size, size, device=device) for _ in range(2)]
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(12 if on_gpu else 42):
        for name, (which, telemetry) in ways.items():
            started = _now_s(device)
            _step(methods[which], views, StepContext(0, number, 0, 50, images, telemetry=telemetry))
            if number > 1:
                taken[name].append(_now_s(device) - started)
    moby, synby, observed = (statistics.median(taken[name]) * 1000 for name in ways)
    telemetry_share = (observed - synby) / TELEMETRY_EVERY_STEPS / synby
    what, unit = ("DeiT-S", "ms") if on_gpu else ("small ViT", "CPU ms")
    print(
        f"step of {what}, {images} images: MoBY {moby:.1f} {unit}, SynBY {synby:.1f}, {synby / moby:.3f} of it; "
        f"with telemetry {observed:.1f}, one step in {TELEMETRY_EVERY_STEPS}: {telemetry_share:.2%} of a step"
    )


def _step(method: Method, views: list[Tensor], step: StepContext) -> None:
    method.zero_grad()
    with torch.autocast("cuda", torch.bfloat16, enabled=views[0].is_cuda):
        output = method(views, step, torch.arange(len(views[0]), device=views[0].device) % 10)
    output.loss.backward()
    method.commit(step)
    if step.telemetry and output.pair is not None:
        embedding_stats(*output.pair)


def _now_s(device: torch.device) -> float:
    """Seconds: on a GPU of the clock once all is done, else of this process's CPU time."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _row(setting: str, where: str, unit: str, values: dict[str, float], factor: float) -> None:
    cells = "".join(f"{values[name] * factor:>10.1f}" for name in VARIANTS)
    against = "".join(f"{values[name] / max(values['ours'], 1e-9):>8.1f}" for name in ("loop", "built"))
    print(f"{setting:<14}{where:<12}{unit:<10}{cells}{against}", flush=True)


if __name__ == "__main__":
    main()
