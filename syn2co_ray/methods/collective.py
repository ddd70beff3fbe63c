"""Who else computes this step, and the global batch's rows from each rank's part."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def ranks_in(group: ProcessGroup | None) -> int:
    """Number of ranks in the group; None is the default group, or this process alone without one."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


@torch.no_grad()
def sum_over_ranks(local: Tensor, group: ProcessGroup | None) -> Tensor:
    """Sum of a tensor of the same shape on every rank, on all ranks."""
    total = local.detach().clone()
    if ranks_in(group) > 1:
        dist.all_reduce(total, group=group)
    return total


@torch.no_grad()
def gather_rows(local: Tensor, first_row: int, rows_global: int, group: ProcessGroup | None) -> Tensor:
    """Rows (n, ...) of every rank -> (rows_global, ...), in the order of the global batch, on all ranks.

    Each rank adds its rows into zeros: exact (x + 0 = x), placed by row number instead of by rank
    order, and free to differ in length between ranks. One all-reduce.
    """
    if ranks_in(group) == 1:
        return local.detach().clone()
    rows = local.new_zeros((rows_global, *local.shape[1:]))
    rows[first_row : first_row + local.shape[0]] = local
    dist.all_reduce(rows, group=group)
    return rows
