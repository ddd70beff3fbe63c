"""Runs the same training on one rank and on two gloo ranks, and writes what each saw; see test_ranks.py.

    python gloo_ranks.py FOLDER DEVICE

Rank 0 first runs everything alone, without a process group. Uneven parts (13 and 7 rows of 20) cut a chunk
of draws in the middle. The ranks are forked once everything is imported and before torch has any threads:
one import instead of two.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from syn2co_ray.methods import StepContext, build_method
from syn2co_ray.methods.batch_norm import GlobalBatchNorm, replace_batch_norm
from syn2co_ray.methods.collective import gather_rows
from syn2co_ray.spec.method import MethodSpec

ROWS, CUT, STEPS = 20, 13, 4

Results = dict[str, Tensor]


def rows_of(rank: int | None) -> slice:
    return {None: slice(0, ROWS), 0: slice(0, CUT), 1: slice(CUT, ROWS)}[rank]


def random_tensor(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KINDS = ("interpolated", "extrapolated", "mixup", "noise", "perturbed", "adversarial")
NEGATIVES = {"hardest": 10, **dict.fromkeys(KINDS, 5)}
QUEUE = {"output_features": 12, "queue_size_features": 50, "drop_path_target": 0.2, "momentum": 0.9}
HEADS = {"hidden_features": 24, "output_features": 12, "drop_path_target": 0.2, "momentum": 0.9}
TINY_VIT = {
    "backbone": "vit_tiny_patch16_224",
    "patch_size": 8,
    "backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
}
TINY_RESNET = {"backbone": "test_resnet"}
TRAINED: dict[str, dict[str, Any]] = {
    "synby_vit": {"framework": "synby", **TINY_VIT, **QUEUE, "hidden_features": 24, "negatives": NEGATIVES},
    "synby_resnet": {
        "framework": "synby",
        **TINY_RESNET,
        **QUEUE,
        "hidden_features": 24,
        "negatives": NEGATIVES,
    },
    "moby": {"framework": "moby", **TINY_VIT, **QUEUE, "hidden_features": 24},
    "moco_v2": {"framework": "moco_v2", **TINY_RESNET, **QUEUE},
    "synco": {"framework": "synco", **TINY_RESNET, **QUEUE, "negatives": NEGATIVES},
    "moco_v3": {"framework": "moco_v3", **TINY_VIT, **HEADS},
    "byol": {"framework": "byol", **TINY_VIT, **HEADS},
    "dino": {
        "framework": "dino",
        **TINY_RESNET,  # for small views timm resamples the positions of a ViT in float32
        "hidden_features": 24,
        "bottleneck_features": 12,
        "prototypes": 30,
        "drop_path_target": 0.2,
        "momentum": 0.9,
    },
    "supervised": {"framework": "supervised", **TINY_RESNET, "classes": 3},
}
"""Name of a scenario -> section `method`: every framework, with drop path in both encoders."""


def train(rank: int | None, fields: dict[str, Any], device: str) -> Results:
    """A few SGD steps."""
    spec: Any = TypeAdapter(MethodSpec).validate_python({"drop_path_online": 0.3, **fields})
    method = build_method(spec, 32, seed=5).double().to(device)
    runner: nn.Module = method
    if rank is not None:
        runner = DistributedDataParallel(method, broadcast_buffers=False)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    rows = rows_of(rank)
    results: Results = {}
    sizes = (32, 32, 16) if fields["framework"] == "dino" else (32, 32)
    labels = torch.arange(ROWS, device=device)[rows] % 3
    for number in range(STEPS):
        step = StepContext(5, number, number, STEPS, ROWS, first_row=rows.start)
        images = [random_tensor(10 * number + v, ROWS, 3, s, s) for v, s in enumerate(sizes)]
        views = [view[rows].to(device) for view in images]
        output = runner(views, step, labels)
        optimizer.zero_grad()
        output.loss.backward()
        if number == 0:
            gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
            results |= {f"gradient/{name}": gradient.clone() for name, gradient in gradients.items()}
        method.before_update(step)
        optimizer.step()
        method.commit(step)
        results[f"loss/{number}"] = output.loss.detach()
    return results | {f"state/{name}": value for name, value in method.state_dict().items()}


def batch_norm(rank: int | None, shape: tuple[int, ...], device: str) -> Results:
    """Torch's own batch norm on the joined batch when alone, the global one on two ranks."""
    kind = nn.BatchNorm1d if len(shape) < 3 else nn.BatchNorm2d
    norm = kind(shape[0], momentum=0.3).double().to(device)
    with torch.no_grad():
        norm.weight.copy_(random_tensor(1, shape[0]))
        norm.bias.copy_(random_tensor(2, shape[0]))
    holder = nn.Sequential(norm)
    if rank is not None:
        replace_batch_norm(holder, "test")
        assert isinstance(holder[0], GlobalBatchNorm)
    rows = rows_of(rank)
    results: Results = {}
    x = (random_tensor(3, ROWS, *shape) * 2 + 5)[rows].to(device).requires_grad_()
    for number in range(2):
        y = holder(x)
        results[f"rows/output/{number}"] = y.detach()
        (y * random_tensor(4 + number, ROWS, *shape)[rows].to(device)).sum().backward()
    assert x.grad is not None
    results["rows/gradient"] = x.grad
    results |= {f"sum/{name}": p.grad for name, p in holder.named_parameters() if p.grad is not None}
    results |= {f"same/{name}": buffer for name, buffer in holder.named_buffers()}
    results["rows/eval"] = holder.eval()(x).detach()
    return results


def gather(rank: int | None, device: str) -> Results:
    x, rows = random_tensor(0, ROWS, 3).to(device), rows_of(rank)
    return {"same/rows": gather_rows(x[rows], rows.start, ROWS, None)}


def run_all(rank: int | None, device: str) -> Results:
    scenarios = {
        **{name: train(rank, fields, device) for name, fields in TRAINED.items()},
        "batch_norm_1d": batch_norm(rank, (6,), device),
        "batch_norm_2d": batch_norm(rank, (6, 4, 3), device),
        "gather": gather(rank, device),
    }
    return {
        f"{name}/{key}": value.cpu() for name, results in scenarios.items() for key, value in results.items()
    }


def run_rank(rank: int, folder: Path, device: str) -> None:
    if rank == 0:
        torch.save(run_all(None, device), folder / "alone.pt")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    torch.save(run_all(rank, device), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def main(folder: Path, device: str) -> int:
    """Exit code 0 when both ranks end well; a rank that fails takes the other down with it."""
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=run_rank, args=(rank, folder, device), daemon=True) for rank in (0, 1)]
    for process in ranks:
        process.start()
    while running := [process for process in ranks if process.exitcode is None]:
        multiprocessing.connection.wait([process.sentinel for process in running])
        if any(process.exitcode for process in ranks):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
