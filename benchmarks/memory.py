"""Count the memory that a recipe's training step needs, without its GPU.

    python benchmarks/memory.py params/msd.yaml … [--measure]

Forward runs on torch's "meta" device, which knows shapes but no numbers; every tensor that autograd
keeps for the backward pass is counted once. `--measure` also takes real steps, patches and loss
included, in a process of its own, and compares its peak with the same sum: on a GPU ten, in
bfloat16, with the seconds they take; else one on the CPU after one to warm up, in float32. So the
count is checked where it can be.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch
from report import make_parser, markdown_table

from lungseg_utils import parameters
from lungseg_utils.patches import TrainingCase
from lungseg_utils.runtime import pick_device
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import (
    TrainingConfig,
    make_loss,
    start_run,
    train_one_epoch,
    training_config,
)

GIB = 2**30
LUNG_BOX_MM3 = 300 * 285 * 270  # the largest of three whole chests, with nothing round it
CASES = 50  # of a fold of Task06_Lung
SCANS = "scans on the device"


def read_config(path: str, **changes: int) -> TrainingConfig:
    return training_config(parameters.defaults() | parameters.read(path) | changes)


def kept_for_backward(config: TrainingConfig) -> tuple[int, int]:
    """Return the bytes of numbers, as float32, and of pooling indices that a forward pass keeps."""
    with torch.device("meta"):
        model = SegUNet(channels=config.channels, upsample=config.upsample, skip=config.skip)
        image = torch.zeros(config.batch_size, 1, *config.patch_size)
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no number comes twice
    indices: set[int] = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
            if tensor.dtype == torch.int64:
                indices.add(storage._cdata)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.train()(image)
    of_indices = sum(kept[key].nbytes() for key in indices)
    return sum(storage.nbytes() for storage in kept.values()) - of_indices, of_indices


def account(config: TrainingConfig, half: bool) -> dict[str, float]:
    """Return the parts of a training step's memory in GiB; with `half` layers keep bfloat16."""
    numbers, indices = kept_for_backward(config)
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in SegUNet(channels=config.channels).parameters())
    voxels = config.batch_size * torch.Size(config.patch_size).numel()
    bytes_a_number = 2 if half else 4
    moments = 8 if config.optimiser == "adamw" else 4
    states = 4 + moments + 4 + 4  # weights, optimiser, gradients, running mean
    if half:
        states += 2
    # the widest layer's gradient in and out, and logits, loss and label in float32
    gradients = voxels * config.channels[0] * 3 * bytes_a_number + voxels * 4 * 8
    parts = {
        "kept activations": numbers * bytes_a_number / 4,
        "pooling indices": indices,
        "weights, gradients, optimiser, running mean": weights * states,
        "gradients on the way": gradients,
        SCANS: CASES * LUNG_BOX_MM3 / config.spacing_mm**3 * 3,
    }
    return {part: taken / GIB for part, taken in parts.items()}


def noise_case(config: TrainingConfig, device: torch.device) -> TrainingCase:
    """Return a scan of noise that is a little larger than a patch, with a lesion."""
    side = torch.Size([size + 8 for size in config.patch_size])
    label = torch.zeros(side, dtype=torch.uint8)
    label[tuple(slice(size // 3, size // 2) for size in side)] = 1
    hu = torch.randint(-900, 100, side, dtype=torch.int16)
    elsewhere = torch.ones(side).nonzero()[::97]
    return TrainingCase("noise", hu.to(device), label.to(device), [label.nonzero()], elsewhere)


def take_steps(path: str) -> None:
    """Take some steps; print the bytes that they took, and the seconds of a step.

    On a GPU these are the bytes that torch has reserved; on a CPU those by which the process grew.
    """
    device = pick_device()
    steps = 10 if device.type == "cuda" else 1
    config = read_config(path, steps_per_epoch=steps, epochs=2)
    case = noise_case(config, device)
    loss_function = make_loss(config.loss)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = start_run(config)
    for _ in range(config.epochs):  # the first warms up
        started = time.perf_counter()
        train_one_epoch(run, [case], loss_function, config)
    seconds = (time.perf_counter() - started) / steps
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if device.type == "cuda":
        taken = torch.cuda.max_memory_reserved(device)
    print(taken, seconds)


def measure(recipe: str, counted: dict[str, float], where: str) -> str:
    """Take some steps of `recipe` in a process of its own; return them beside what was counted."""
    command = [sys.executable, __file__, recipe, "--one"]
    ended = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    taken, seconds = map(float, ended.stdout.split()[-2:])
    expected = sum(counted.values()) - counted[SCANS]
    return (
        f"\nmeasured on the {where}, without the scans: {taken / GIB:.2f} GiB; "
        f"counted: {expected:.2f} GiB; {seconds:.2f} s a step"
    )


def main() -> None:
    """Print a table a recipe."""
    parser = make_parser(__doc__)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--measure", action="store_true", help="take some steps too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        take_steps(options.recipes[0])
        return
    for recipe in options.recipes:
        config = read_config(recipe)
        patch = "×".join(map(str, config.patch_size))
        widths = "-".join(map(str, config.channels))
        print(f"\n{recipe}: {config.batch_size} patches of {patch}, SegUNet {widths}\n")
        half = account(config, half=True)
        full = account(config, half=False)
        rows = [[part, f"{half[part]:.2f}", f"{full[part]:.2f}"] for part in half]
        rows.append(["together", f"{sum(half.values()):.2f}", f"{sum(full.values()):.2f}"])
        print(markdown_table(["part", "bfloat16, GiB", "float32, GiB"], rows))
        if options.measure and pick_device().type == "cuda":
            print(measure(recipe, half, "GPU, bfloat16"))
        elif options.measure:
            print(measure(recipe, full, "CPU, float32"))


if __name__ == "__main__":
    main()
