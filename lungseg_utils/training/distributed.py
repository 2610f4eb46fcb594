"""Several processes, as `accelerate launch` or `torchrun` starts them: the same loop, each on its share of a batch.

Every process draws its own patches; the loss is that of the whole batch, and gradients are summed before each step,
so that all hold the same weights. Batch norms see a process's own share, and their running statistics are averaged
once an epoch. The first process alone writes. One process, as without a launcher, does none of this.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from lungseg_utils.runtime import LungsegError, pick_device


def join_processes(device: str) -> torch.device:
    """Give this process's device; where a launcher has started several, meet the others first."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return pick_device(device)
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise LungsegError(
            "several processes", "accelerate is not installed", "pip install accelerate"
        ) from error
    patience = timedelta(hours=2)  # while the first prepares the scans, or validates
    joined = PartialState(cpu=pick_device(device).type == "cpu", timeout=patience)
    atexit.register(_leave, joined)
    return joined.device


def _leave(joined) -> None:
    """End the group before the interpreter ends: gloo's threads let go of tensors, for which they need it.

    One that comes too late aborts the process (pytorch/pytorch issue 190489); so they get a moment first.
    """
    time.sleep(0.2)
    joined.destroy_process_group()


def count() -> int:
    """Give the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Give the number of this process; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def part(batch_size: int) -> range:
    """Give the numbers of the patches of a batch that this process draws."""
    if batch_size % count():
        raise LungsegError(
            "batch_size",
            f"{batch_size} patches cannot be shared by {count()} processes",
            f"use a multiple of {count()}",
        )
    share = batch_size // count()
    return range(rank() * share, (rank() + 1) * share)


def seed_epoch(generator: torch.Generator, seed: int, epoch: int) -> None:
    """Give every process but the first a generator of its own, the same again when this epoch is resumed."""
    if rank():
        generator.manual_seed((seed * 1_000_003 + epoch) * 1009 + rank())


def join(own: Tensor) -> Tensor:
    """Give the patches of all processes, the first's first; only the `own` ones have a gradient."""
    if count() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(count())]
    dist.all_gather(parts, own.detach().contiguous())
    parts[rank()] = own
    return torch.cat(parts)


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one message."""
    if count() == 1:
        return
    tensors = [tensor for tensor in tensors if tensor is not None and tensor.is_floating_point()]
    together = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(together)
    together /= count()
    for tensor, mean in zip(tensors, together.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(mean.view_as(tensor))


def gather(rows: Sequence) -> list:
    """Give the rows of all processes, the first's first."""
    if count() == 1:
        return list(rows)
    parts: list = [None] * count()
    dist.all_gather_object(parts, list(rows))
    return [row for part in parts for row in part]


def wait() -> None:
    """Wait until every process is here."""
    if count() > 1:
        dist.barrier()
