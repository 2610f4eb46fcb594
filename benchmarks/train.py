"""Measure training throughput, data included: this project's loop, MONAI's tutorial pipeline and nnU-Net's trainer.

    python benchmarks/train.py [--steps 12] [--peers PYTHON] [--device auto] [--patch 40] [--batch-size 4]

All three train the same network on the same scans with the same patch and batch; a step is timed from one to the
next, whatever draws the data in between. MONAI and nnU-Net are timed without and with worker processes, and the
faster counts. This project's loop is also timed with batch norms fixed, as the shipped weights were trained, and in as
many processes as there are cores, each with its share of the batch, which is what
`torchrun --nproc-per-node 2 -m lungseg_utils train` does. nnU-Net v2 runs in an environment of
its own, whose Python `--peers` (or $LUNGSEG_PEERS) names; without it its row says "not run". Writes
benchmarks/results/train.json and train.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from report import RESULTS, write_results

from lungseg_utils import course, runtime
from lungseg_utils.patches import draw_batch, make_training_case
from lungseg_utils.preprocess import CLIP_HU, Prepared
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import (
    TrainingConfig,
    describe_environment,
    make_loss,
    start_run,
    train_one_epoch,
)

WARM_UP = 3  # steps that are not counted


def time_steps(step: Callable[[], object], steps: int, device: torch.device) -> list[float]:
    """Give the seconds of each of `steps` calls, after a few that are not counted."""
    seconds = []
    for _ in range(WARM_UP + steps):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


def ours(
    cases: Sequence[Prepared], config: TrainingConfig, device: torch.device, steps: int
) -> tuple[list, list]:
    """Time this project's loop; give the seconds of its steps, and of the same steps with their data ready."""
    from lungseg_utils import training

    run = start_run(config, device)
    sources, loss_function = [make_training_case(case, device) for case in cases], make_loss()
    epoch = dataclasses.replace(config, steps_per_epoch=WARM_UP + steps + 1)

    def time_epoch() -> list[float]:
        moments = []

        def at_this_moment(logits, label):
            moments.append(time.perf_counter())
            return loss_function(logits, label)

        train_one_epoch(run, sources, at_this_moment, epoch)
        return np.diff(moments)[WARM_UP:].tolist()

    whole = time_epoch()
    batch = draw_batch(
        sources,
        batch_size=config.batch_size,
        part=distributed.part(config.batch_size),
        patch_size=config.patch_size,
        generator=run.generator,
    )
    drawing, training.draw_batch = training.draw_batch, lambda *_args, **_options: batch
    try:
        return whole, time_epoch()
    finally:
        training.draw_batch = drawing


def ours_in_processes(options: argparse.Namespace, count: int, frozen_norm_share: float) -> list:
    """Time this project's loop in `count` processes, each with its share of the batch; give the first one's seconds."""
    same = [
        f"--steps={options.steps}",
        f"--patch={options.patch}",
        f"--batch-size={options.batch_size}",
        f"--device={options.device}",
        f"--frozen-norm-share={frozen_norm_share}",
        "--channels",
        *map(str, options.channels),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds.json"
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nproc-per-node",
                str(count),
                __file__,
                "--share-of",
                path,
                *same,
            ],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            raise runtime.LungsegError("torchrun", f"failed: {ended.stderr.strip()[-2000:]}")
        return json.loads(path.read_text())


def monai(
    cases: Sequence[Prepared],
    config: TrainingConfig,
    device: torch.device,
    steps: int,
    workers: int,
) -> list:
    """Time MONAI's tutorial pipeline: cached scans, crops by label, random transforms one by one, a DataLoader."""
    from monai import transforms as t
    from monai.data import CacheDataset, DataLoader

    both, angle = ["image", "label"], np.radians(20)
    low, high = CLIP_HU
    pipeline = t.Compose(
        [
            t.EnsureChannelFirstd(both, channel_dim=0),
            t.ScaleIntensityRanged("image", low, high, -1, 1, clip=True),
            t.RandCropByPosNegLabeld(
                both, "label", config.patch_size, pos=2, neg=1, num_samples=config.batch_size // 2
            ),
            t.RandFlipd(both, prob=0.5, spatial_axis=2),
            t.RandRotate90d(both, prob=0.5, spatial_axes=(1, 2)),
            t.RandAffined(
                both,
                prob=1.0,
                rotate_range=(angle,) * 3,
                scale_range=(0.2,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            t.RandScaleIntensityd("image", factors=0.1, prob=0.5),
            t.RandShiftIntensityd("image", offsets=0.1, prob=0.5),
            t.RandGaussianSmoothd("image", prob=0.25),
            t.RandGaussianNoised("image", prob=0.5, std=0.03),
        ]
    )
    items = [
        {"image": np.array(case.hu, np.float32)[None], "label": np.array(case.label)[None]}
        for case in cases
    ]
    cached = CacheDataset(items, pipeline, num_workers=1, progress=False)
    loader = DataLoader(cached, batch_size=2, shuffle=True, num_workers=workers, drop_last=True)
    torch.manual_seed(config.seed)
    model, loss_function = SegUNet(channels=config.channels).to(device), make_loss()
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    precision = runtime.pick_precision(device)
    batches = _endless(loader)

    def step() -> float:
        batch = next(batches)
        image, label = batch["image"].to(device), batch["label"].to(device)
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = loss_function(model(image), label)
        loss.backward()
        optimiser.step()
        return loss.item()

    return time_steps(step, steps, device)


def _endless(loader):
    while True:
        yield from loader


def nnunet(
    cases: Sequence[Prepared],
    config: TrainingConfig,
    device: torch.device,
    steps: int,
    workers: Sequence[int],
    python: str,
) -> dict[int, list]:
    """Time nnU-Net's own trainer and dataloader, in the environment of `python`, for each number of workers."""
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases):
            np.savez(Path(folder) / f"case_{number:03d}.npz", hu=case.hu, label=case.label)
        request = {
            "patch_size": config.patch_size,
            "batch_size": config.batch_size,
            "channels": config.channels,
            "spacing_mm": config.spacing_mm,
            "device": device.type,
            "steps": WARM_UP + steps,
            "workers": list(workers),
        }
        (Path(folder) / "request.json").write_text(json.dumps(request))
        environment = os.environ | {"nnUNet_compile": "f"}
        environment |= {
            f"nnUNet_{name}": f"{folder}/{name}" for name in ("raw", "preprocessed", "results")
        }
        ended = subprocess.run(
            [python, str(Path(__file__).with_name("train_nnunet.py")), folder],
            env=environment,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            raise runtime.LungsegError(python, f"nnU-Net failed: {ended.stderr.strip()[-2000:]}")
        found = json.loads((Path(folder) / "seconds.json").read_text())
        return {int(number): seconds[WARM_UP:] for number, seconds in found.items()}


def fastest(found: dict[int, list]) -> tuple[list, int]:
    """Give the steps and the number of worker processes with which they are fastest."""
    workers = min(found, key=lambda number: float(np.median(found[number])))
    return found[workers], workers


def table(rows: Sequence[dict]) -> str:
    peers = [row for row in rows if not row["loop"].startswith("this project")]
    lines = [
        "| loop | million voxels a second | seconds a step (median; quartiles) | worker processes |"
        + "".join(f" times {row['loop']} |" for row in peers),
        "| --- | --- | --- | --- |" + " --- |" * len(peers),
    ]
    for row in rows:
        if row["seconds"] is None:
            lines.append(f"| {row['loop']} | not run | | |" + " |" * len(peers))
            continue
        low, middle, high = np.percentile(row["seconds"], [25, 50, 75])
        ratios = "".join(
            f" {np.median(peer['seconds']) / middle:.2f} |" if peer["seconds"] else " |"
            for peer in peers
        )
        lines.append(
            f"| {row['loop']} | {row['voxels'] / middle / 1e6:.3f} | {middle:.3f} ({low:.3f} to {high:.3f}) "
            f"| {row['workers']} |{ratios}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the arguments, time the loops one after another, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--patch", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--channels", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 2], help="to try, for MONAI and nnU-Net"
    )
    parser.add_argument(
        "--peers", default=os.environ.get("LUNGSEG_PEERS"), help="Python that has nnunetv2"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "train")
    parser.add_argument(
        "--share-of", type=Path, help=argparse.SUPPRESS
    )  # one of several processes; seconds go here
    parser.add_argument(
        "--frozen-norm-share", type=float, default=0.0, help=argparse.SUPPRESS
    )  # of one of them
    options = parser.parse_args()
    device = distributed.join_processes(options.device)
    config = TrainingConfig(
        epochs=10**6,
        steps_per_epoch=1,
        batch_size=options.batch_size,
        spacing_mm=3.0,
        patch_size=(options.patch,) * 3,
        channels=tuple(options.channels),
        frozen_norm_share=options.frozen_norm_share,
    )
    with contextlib.redirect_stdout(sys.stderr):
        cases = prepare_cases(course.ensure_dataset().training, spacing_mm=config.spacing_mm)
    if options.share_of:
        seconds, _ = ours(cases, config, device, options.steps)
        if distributed.rank() == 0:
            options.share_of.write_text(json.dumps(seconds))
        return
    voxels = config.batch_size * options.patch**3

    def row(loop: str, seconds: list | None, workers: int) -> dict:
        print(
            loop,
            "not run" if seconds is None else f"{np.median(seconds):.3f} s a step",
            file=sys.stderr,
            flush=True,
        )
        return {
            "loop": loop,
            "voxels": voxels,
            "workers": workers,
            "seconds": seconds and [round(second, 5) for second in seconds],
        }

    # MONAI first: what our loop asks of the allocator would help it too, in this one process.
    monai_rows = fastest(
        {
            workers: monai(cases, config, device, options.steps, workers)
            for workers in options.workers
        }
    )
    whole, network = ours(cases, config, device, options.steps)
    fixed, _ = ours(
        cases, dataclasses.replace(config, frozen_norm_share=1.0), device, options.steps
    )
    rows = [row("this project", whole, 0), row("this project, batch norms fixed", fixed, 0)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device.type == "cpu" and cores > 1 and config.batch_size % cores == 0:
        for name, frozen_norm_share in (("", 0.0), (", batch norms fixed", 1.0)):
            seconds = ours_in_processes(options, cores, frozen_norm_share)
            rows.append(row(f"this project, {cores} processes{name}", seconds, 0))
    rows.append(row("MONAI's tutorial pipeline", *monai_rows))
    nnunet_rows = (None, 0)
    if options.peers:
        nnunet_rows = fastest(
            nnunet(cases, config, device, options.steps, options.workers, options.peers)
        )
    rows.append(row("nnU-Net v2's trainer and dataloader", *nnunet_rows))
    share = float(np.median(network) / np.median(whole))
    facts = describe_environment(device)
    text = (
        f"# Training throughput, data included\n\n{config.batch_size} patches of {options.patch}³ voxels a step, "
        f"the same SegUNet, {'-'.join(map(str, options.channels))}, in all, {facts['device']} "
        f"({facts['processor']}, {facts['threads']} threads), torch {facts['torch']}, median of {options.steps} "
        f"steps, one run.\n\n{table(rows)}\nOf this project's step the network itself is {share:.0%}, the rest "
        "draws and varies the patches.\n"
    )
    write_results(
        options.output, {"environment": facts, "network_share": share, "rows": rows}, text
    )


if __name__ == "__main__":
    main()
