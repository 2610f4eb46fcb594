"""Say what memory a recipe's training step needs, without the GPU: python benchmarks/memory.py params/msd.yaml …

Forward runs on torch's "meta" device, which knows shapes but no numbers; every tensor that autograd keeps for the
backward pass is counted once. `--measure` also makes real steps, patches and loss included, in a process of its own,
and compares its peak with the same sum: on a GPU ten, in bfloat16, with the seconds they take; else two on the CPU,
in float32. So the count is checked where it can be.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch

from lungseg_utils import parameters
from lungseg_utils.training import training_config
from lungseg_utils.runtime import pick_device
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import TrainingConfig

GIB = 2**30
LUNG_BOX_MM3 = 300 * 285 * 270  # the largest of three whole chests, with nothing round it
CASES = 50  # of a fold of Task06_Lung


def kept_for_backward(config: TrainingConfig) -> tuple[int, int]:
    """Give the bytes of numbers, as float32, and of pooling indices that one batch's forward pass leaves behind."""
    with torch.device("meta"):
        model = SegUNet(
            channels=config.channels, upsample=config.upsample, skip=config.skip
        ).train()
        image = torch.zeros(config.batch_size, 1, *config.patch_size)
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}
    dtypes: dict[int, torch.dtype] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata], dtypes[storage._cdata] = (
                storage,
                tensor.dtype,
            )  # held, so that no number comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(image)
    indices = sum(storage.nbytes() for key, storage in kept.items() if dtypes[key] == torch.int64)
    return sum(storage.nbytes() for storage in kept.values()) - indices, indices


def account(config: TrainingConfig, half: bool) -> dict[str, float]:
    """Give the parts of a training step's memory in GiB; `half` is bfloat16 for what the layers keep."""
    numbers, indices = kept_for_backward(config)
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in SegUNet(channels=config.channels).parameters())
    voxels = config.batch_size * torch.Size(config.patch_size).numel()
    states = (
        4 + (8 if config.optimiser == "adamw" else 4) + 4 + 4
    )  # weights, optimiser, gradients, running mean
    return {
        "kept activations": (numbers / 2 if half else numbers) / GIB,
        "pooling indices": indices / GIB,
        "weights, gradients, optimiser, running mean": weights
        * (states + (2 if half else 0))
        / GIB,
        # the widest layer's gradient in and out, and logits, loss and label in float32
        "gradients on the way": (
            voxels * config.channels[0] * 3 * (2 if half else 4) + voxels * 4 * 8
        )
        / GIB,
        "scans on the device": CASES * LUNG_BOX_MM3 / config.spacing_mm**3 * 3 / GIB,
    }


def measure(path: str) -> None:
    """Make some steps; print the bytes that a GPU gave, or by which the process grew, and the seconds of a step."""
    from lungseg_utils.patches import TrainingCase
    from lungseg_utils.training import make_loss, start_run, train_one_epoch

    device = pick_device()
    steps = 10 if device.type == "cuda" else 1
    config = training_config(
        parameters.defaults() | parameters.read(path) | {"steps_per_epoch": steps, "epochs": 2}
    )
    side = torch.Size([size + 8 for size in config.patch_size])
    label = torch.zeros(side, dtype=torch.uint8)
    label[tuple(slice(size // 3, size // 2) for size in side)] = 1
    hu = torch.randint(-900, 100, side, dtype=torch.int16)
    source = TrainingCase(
        "noise",
        hu.to(device),
        label.to(device),
        [label.nonzero()],
        torch.ones(side).nonzero()[::97],
    )
    loss_function = make_loss(config.loss)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = start_run(config, device)
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        train_one_epoch(run, [source], loss_function, config)
    seconds = (time.perf_counter() - started) / steps
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(torch.cuda.max_memory_reserved(device) if device.type == "cuda" else grown, seconds)


def main() -> None:
    """Print a table a recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--measure", action="store_true", help="make some steps too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.recipes[0])
        return
    for recipe in options.recipes:
        config = training_config(parameters.defaults() | parameters.read(recipe))
        print(
            f"\n{recipe}: {config.batch_size} patches of {'×'.join(map(str, config.patch_size))}, SegUNet "
            f"{'-'.join(map(str, config.channels))}\n\n| part | bfloat16, GiB | float32, GiB |\n| --- | --- | --- |"
        )
        half, full = account(config, True), account(config, False)
        for part in half:
            print(f"| {part} | {half[part]:.2f} | {full[part]:.2f} |")
        print(f"| together | {sum(half.values()):.2f} | {sum(full.values()):.2f} |")
        if options.measure:
            ended = subprocess.run(
                [sys.executable, __file__, recipe, "--one"],
                check=True,
                text=True,
                stdout=subprocess.PIPE,
            )
            taken, seconds = map(float, ended.stdout.split())
            parts, where = (
                (half, "GPU, bfloat16") if pick_device().type == "cuda" else (full, "CPU, float32")
            )
            print(
                f"\nmeasured on the {where}, without the scans: {taken / GIB:.2f} GiB; counted: "
                f"{sum(parts.values()) - parts['scans on the device']:.2f} GiB; {seconds:.2f} s a step"
            )


if __name__ == "__main__":
    main()
