"""Several processes, as `torchrun` or `accelerate launch` starts them, by Hugging Face accelerate.

Every process runs the same loop on its share of a batch. DistributedDataParallel averages their
gradients before each step, so that all hold the same weights. What it does not know is here: the
loss is that of the whole batch, and each process draws its own patches. A single process, as
without a launcher, does none of this.
"""

import atexit
import os
import time
import warnings
from datetime import timedelta

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lungseg_utils.runtime import LungsegError, pick_device
from lungseg_utils.training.rendezvous import init_method

PATIENCE = timedelta(hours=2)  # while the first process prepares the scans, or validates


def start_accelerator(device: str) -> Accelerator:
    """Return the Accelerator of this process; where a launcher has started several, meet them.

    `accelerator.device` is the device called `device`, or this process's own GPU.
    """
    chosen = pick_device(device)
    is_alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    if is_alone:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run's device
    accelerator = Accelerator(
        cpu=chosen.type == "cpu",
        device_placement=False,
        mixed_precision="no",  # `TrainingNetwork` casts
        kwargs_handlers=[InitProcessGroupKwargs(init_method=init_method(), timeout=PATIENCE)],
    )
    if is_alone:
        accelerator.state.device = chosen
    else:
        atexit.register(_leave, accelerator)
    return accelerator


def _leave(accelerator: Accelerator) -> None:
    """End the group before the interpreter ends: gloo's threads need it to free tensors.

    One that comes too late aborts the process (pytorch/pytorch issue 190489), so they get a moment.
    """
    time.sleep(0.2)
    accelerator.end_training()


def distribute(
    accelerator: Accelerator, network: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return both as the accelerator trains them; of several processes each keeps its buffers."""
    network, optimiser = accelerator.prepare(network, optimiser)
    if isinstance(network, DistributedDataParallel):
        network.broadcast_buffers = False  # they are averaged once an epoch
        # a 1 × 1 × 1 kernel and its gradient write the same layout as other strides
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return network, optimiser


def share_of_batch(accelerator: Accelerator, batch_size: int) -> range:
    """Return the numbers of the patches of a batch that this process draws."""
    world_size = accelerator.num_processes
    if batch_size % world_size:
        raise LungsegError(
            "batch_size",
            f"{batch_size} patches cannot be shared by {world_size} processes",
            f"Use a multiple of {world_size}",
        )
    share = batch_size // world_size
    first = accelerator.process_index * share
    return range(first, first + share)


def gather_shares(own: list) -> list:
    """Return what all processes have found, in the order of the items they have dealt out.

    Each has taken every nth item, from its own number on, and found `own`.
    """
    shares = gather_object([own])
    whole = [None] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole


def seed_epoch(accelerator: Accelerator, generator: torch.Generator, seed: int, epoch: int) -> None:
    """Seed every process but the first, the same again when an epoch is resumed."""
    rank = accelerator.process_index
    if rank:
        generator.manual_seed((seed * 1_000_003 + epoch) * 1009 + rank)


def whole_batch(accelerator: Accelerator, own: Tensor) -> Tensor:
    """Return the patches of all processes, this one's with their gradient."""
    world_size = accelerator.num_processes
    if world_size == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(world_size)]
    torch.distributed.all_gather(parts, own.detach().contiguous())
    if own.requires_grad:
        # each process adds its own patches' part, of which DistributedDataParallel takes the mean
        own.register_hook(lambda gradient: world_size * gradient)
    parts[accelerator.process_index] = own
    return torch.cat(parts)


@torch.no_grad()
def average_buffers(accelerator: Accelerator, *modules: nn.Module) -> None:
    """Replace the floating-point buffers of `modules` by their means over the processes."""
    for module in modules:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(accelerator.reduce(buffer, "mean"))
