"""Compare SegUNet with its parents and its peers: same phantoms, same loop, same steps, as many parameters, seeds.

    python benchmarks/ablation.py [--steps 160] [--seeds 3] [--only NAME] [--runs N] [--peers FOLDER]

SegUNet, U-Net and SegNet are this project's switches; DynUNet is MONAI's; PlainConvUNet is nnU-Net's, from the
package dynamic-network-architectures, which `--peers` may name a site-packages folder for. A network and seed that
the results hold already is not trained again, so the whole may run in pieces (`--runs 1` is one piece).
Writes benchmarks/results/ablation.json (every case of every run) and ablation.md (the tables).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from report import RESULTS, write_results
from torch import nn

from lungseg_utils import decathlon, phantom, runtime, volume
from lungseg_utils.evaluation import case_metrics
from lungseg_utils.evaluation.statistics import bootstrap_interval, paired_difference
from lungseg_utils.patches import make_training_case
from lungseg_utils.phantom.dataset import RECIPE_VERSION
from lungseg_utils.prediction import Predictor
from lungseg_utils.preprocess import Prepared
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import TrainingConfig, make_loss, start_run, train_one_epoch

PHANTOM_SEED = 11  # its case seeds are in no other set of this project
MEASURES = {
    "dice": "Dice",
    "nsd_2mm": "surface Dice 2 mm",
    "recall": "lesion recall",
    "false_positives": "false positives a scan",
}


class Peer(nn.Module):
    """Somebody else's network with what the loop and the predictor ask of a SegUNet: its pools, nothing to fold."""

    def __init__(self, network: nn.Module, last: nn.Conv3d, pools: Sequence[Sequence[int]]):
        super().__init__()
        self.network, self.pools, self.channels = network, pools, (last.in_channels,)
        self.encoder, self.bottleneck, self.decoder = [], nn.Sequential(), []
        nn.init.constant_(last.bias, -math.log(99))  # as `start_run` does for a SegUNet

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad to whole poolings, which a SegUNet does not need, and cut back."""
        missing = [-size % 2 ** len(self.pools) for size in reversed(x.shape[2:])]
        padded = nn.functional.pad(
            x, [side for end in missing for side in (0, end)], value=-1.0
        )  # as air
        depth, height, width = x.shape[2:]
        return self.network(padded)[..., :depth, :height, :width]


def segunet(widths: Sequence[int], **switches: str) -> SegUNet:
    """Build one of the three networks that are switches of ours."""
    model = SegUNet(channels=widths, **switches)
    nn.init.constant_(model.head.bias, -math.log(99))
    return model


def dynunet(widths: Sequence[int]) -> Peer:
    """Build MONAI's DynUNet, nnU-Net's network in MONAI's words, with its own defaults."""
    from monai.networks.nets import DynUNet

    strides = [1] + [2] * (len(widths) - 1)
    network = DynUNet(3, 1, 1, [3] * len(widths), strides, strides[1:], filters=list(widths))
    return Peer(network, network.output_block.conv.conv, [(2, 2, 2)] * (len(widths) - 1))


def plain_conv_unet(widths: Sequence[int]) -> Peer:
    """Build nnU-Net's PlainConvUNet with the operations of nnU-Net's plans."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    network = PlainConvUNet(
        1,
        len(widths),
        list(widths),
        nn.Conv3d,
        3,
        [1] + [2] * (len(widths) - 1),
        2,
        1,
        2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    network.apply(network.initialize)
    return Peer(network, network.decoder.seg_layers[-1], [(2, 2, 2)] * (len(widths) - 1))


NETWORKS: dict[str, Callable[[Sequence[int]], nn.Module]] = {
    "SegUNet": segunet,
    "U-Net": lambda widths: segunet(widths, upsample="transpose"),
    "SegNet": lambda widths: segunet(widths, skip="none"),
    "MONAI DynUNet": dynunet,
    "nnU-Net PlainConvUNet": plain_conv_unet,
}


def count_parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def match_widths(name: str, channels: Sequence[int]) -> list[int]:
    """Give the widths with which network `name` has about the parameters of a SegUNet of `channels`."""
    wanted = count_parameters(segunet(channels))
    candidates = [
        [round(width * share) for width in channels] for share in np.arange(0.5, 1.6, 0.01)
    ]
    return min(
        candidates, key=lambda widths: abs(count_parameters(NETWORKS[name](widths)) - wanted)
    )


@dataclasses.dataclass(frozen=True)
class Trial:
    """A scan to be scored on: as it was read, its truth, and prepared."""

    scan: volume.Volume
    truth: np.ndarray  # (D, H, W)
    prepared: Prepared


def load_data(options: argparse.Namespace):
    """Make or find the phantoms that `options` ask for; give the prepared training cases and the trials."""
    folder = options.data or runtime.home() / "data" / "ablation"
    with contextlib.redirect_stdout(None):
        phantom.write_dataset(
            folder,
            cases=options.cases,
            test_cases=options.test_cases,
            seed=PHANTOM_SEED,
            tier=options.tier,
        )
    dataset = decathlon.load(folder)
    training, test = (
        prepare_cases(part, spacing_mm=options.spacing_mm, workers=1)
        for part in (dataset.training, dataset.test)
    )
    trials = []
    for case, prepared in zip(dataset.test, test):
        scan = volume.read(case.image)
        trials.append(Trial(scan, volume.read_label(case.label, like=scan), prepared))
    return training, trials


def score(
    model: nn.Module, trials: Sequence[Trial], config: TrainingConfig, device: str = "auto"
) -> list[dict]:
    """Predict every trial on the scan's own grid and measure it: a row a case."""
    predictor = Predictor(model=model, facts={"spacing_mm": config.spacing_mm}, device=device)
    rows = []
    for trial in trials:
        mask = predictor.mask(trial.scan, trial.prepared, predictor.probabilities(trial.prepared))
        row = {"case": trial.scan.name} | case_metrics(trial.truth, mask, trial.scan.spacing_mm)
        row["recall"] = (
            row["lesions_found"] / row["lesions_true"] if row["lesions_true"] else math.nan
        )
        rows.append({key: None if value != value else value for key, value in row.items()})
    return rows


def train_and_score(
    build: Callable[[], nn.Module],
    training: Sequence[Prepared],
    trials: Sequence[Trial],
    config: TrainingConfig,
    device: str = "auto",
) -> dict:
    """Train one network as `fit` does, its running mean taken at the end, and score it: nothing is chosen."""
    runtime.seed_everything(config.seed)
    run = start_run(config, runtime.pick_device(device), build())
    sources = [make_training_case(case, runtime.pick_device(device)) for case in training]
    started = time.perf_counter()
    for _ in range(config.epochs):
        run.history.append(train_one_epoch(run, sources, make_loss(config.loss), config))
    seconds = time.perf_counter() - started
    return {
        "parameters": count_parameters(run.model),
        "seconds": round(seconds, 1),
        "loss": run.history[-1]["loss"],
        "rows": score(run.ema, trials, config, device),
    }


def column(runs: Sequence[dict], measure: str) -> np.ndarray:
    """Give a measure per case, the mean over the seeds: (cases,)."""
    values = np.array(
        [[row[measure] for row in run["rows"]] for run in runs], float
    )  # None becomes NaN
    return values.mean(axis=0)


def cells_of(runs: Sequence[dict]) -> list[str]:
    """Write each measure's mean over seeds and cases, with its interval."""
    cells = []
    for measure in MEASURES:
        values = column(runs, measure)
        low, high = bootstrap_interval(values)
        cells.append(f"{np.nanmean(values):.3f} ({low:.3f} to {high:.3f})")
    return cells


def differences_of(
    base: Sequence[dict], other: Sequence[dict], measures: Sequence[str] = tuple(MEASURES)
) -> list[str]:
    """Write each measure's paired difference, `other` less `base`, over the seeds that both have."""
    seeds = {run["seed"] for run in base} & {run["seed"] for run in other}
    cells = []
    for measure in measures:
        before, after = (
            column([run for run in runs if run["seed"] in seeds], measure) for runs in (base, other)
        )
        found = paired_difference(after, before)
        cells.append(f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})")
    return cells


def table(runs: Sequence[dict]) -> str:
    """Write the two tables: the networks, and SegUNet's paired differences from each."""
    by_name = {name: [run for run in runs if run["network"] == name] for name in NETWORKS}
    by_name = {name: found for name, found in by_name.items() if found}
    lines = [
        "| network | parameters | widths | seeds | " + " | ".join(MEASURES.values()) + " |",
        "| --- " * (len(MEASURES) + 4) + "|",
    ]
    for name, found in by_name.items():
        widths = "-".join(map(str, found[0]["widths"]))
        lines.append(
            f"| {name} | {found[0]['parameters']:,} | {widths} | {len(found)} | "
            + " | ".join(cells_of(found))
            + " |"
        )
    lines += [
        "",
        "SegUNet minus the other, case by case (mean and 95 % interval of the paired bootstrap):",
        "",
        "| against | " + " | ".join(MEASURES.values()) + " |",
        "| --- " * (len(MEASURES) + 1) + "|",
    ]
    for name in list(by_name)[1:] if "SegUNet" in by_name else []:
        lines.append(
            f"| {name} | " + " | ".join(differences_of(by_name[name], by_name["SegUNet"])) + " |"
        )
    return "\n".join(lines) + "\n"


def describe(setting: dict) -> str:
    return (
        f"{setting['cases']} training and {setting['test_cases']} test phantoms of the {setting['tier']} tier "
        f"(version {setting['generator']} of the generator), "
        f"{setting['steps']} steps of {setting['batch_size']} patches of "
        f"{'×'.join(map(str, setting['patch_size']))} voxels of {setting['spacing_mm']:g} mm; means over seeds and "
        "cases, with the 95 % interval of the bootstrap over cases; the running mean of the weights after the "
        "last step, threshold 0.5, scored on the scan's own grid.\n\n"
    )


def save(path: Path, title: str, setting: dict, runs: list[dict], text: str) -> None:
    write_results(
        path, {"setting": setting, "runs": runs}, f"# {title}\n\n{describe(setting)}{text}"
    )


def earlier_runs(path: Path, setting: dict) -> list[dict]:
    """Give the runs that the results hold already; raise where they were made with another setting."""
    if not path.with_suffix(".json").is_file():
        return []
    content = json.loads(path.with_suffix(".json").read_text())
    if content["setting"] != setting:
        raise runtime.LungsegError(
            path, "holds results of another setting", "name another file with --output"
        )
    return content["runs"]


def add_setting(parser: argparse.ArgumentParser, output: str) -> None:
    """Add the options that the ablation and the curves share; the defaults are the small setting."""
    for name, default in (
        ("steps", 160),
        ("cases", 24),
        ("test-cases", 16),
        ("batch-size", 4),
        ("patch", 32),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default {default})")
    parser.add_argument(
        "--tier", default="quick", choices=("quick", "medium", "full"), help="(default quick)"
    )
    parser.add_argument("--spacing-mm", type=float, default=3.0, help="(default 3)")
    parser.add_argument(
        "--channels", type=int, nargs="+", default=[8, 16, 32, 64], help="(default 8 16 32 64)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="(default 3)")
    parser.add_argument(
        "--runs", type=int, default=10**6, help="stop after so many trainings (default: all)"
    )
    parser.add_argument(
        "--data", type=Path, help="folder for the phantoms (default: data/ablation)"
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS / output, help=f"(default: results/{output})"
    )


def setting_of(options: argparse.Namespace) -> dict:
    setting = {
        name: getattr(options, name)
        for name in ("steps", "cases", "test_cases", "tier", "spacing_mm", "batch_size", "channels")
    }
    return setting | {
        "patch_size": [options.patch] * 3,
        "threads": torch.get_num_threads(),
        "generator": RECIPE_VERSION,
    }


def config_of(setting: dict, seed: int, steps: int | None = None) -> TrainingConfig:
    """Give the quick recipe for `steps` steps, its learning rate falling to zero."""
    steps = steps or setting["steps"]
    return TrainingConfig(
        epochs=1,
        steps_per_epoch=steps,
        batch_size=setting["batch_size"],
        schedule="cosine",
        patch_size=tuple(setting["patch_size"]),
        spacing_mm=setting["spacing_mm"],
        seed=seed,
    )


def main() -> None:
    """Read the arguments, train what is missing, and write the tables after every run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setting(parser, "ablation")
    parser.add_argument("--only", choices=NETWORKS, help="one of the networks")
    parser.add_argument(
        "--peers", help="site-packages folder that holds dynamic_network_architectures"
    )
    options = parser.parse_args()
    if options.peers:
        sys.path.append(options.peers)  # last: everything else comes from here
    setting = setting_of(options)
    runs = earlier_runs(options.output, setting)
    done = {(run["network"], run["seed"]) for run in runs}
    wanted = [
        (name, seed)
        for seed in range(options.seeds)
        for name in NETWORKS
        if options.only in (None, name)
    ]
    missing = [pair for pair in wanted if pair not in done][: options.runs]
    if missing:
        training, trials = load_data(options)
    for name, seed in missing:
        widths = match_widths(name, options.channels)
        found = train_and_score(
            lambda: NETWORKS[name](widths), training, trials, config_of(setting, seed)
        )
        runs.append({"network": name, "seed": seed, "widths": widths} | found)
        save(options.output, "SegUNet, its parents and its peers", setting, runs, table(runs))
        print(
            f"{name}, seed {seed}: {found['seconds']:.0f} s, Dice {column(runs[-1:], 'dice').mean():.3f}",
            flush=True,
        )
    print(table(runs))


if __name__ == "__main__":
    main()
