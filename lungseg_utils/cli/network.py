"""The commands that train the network and evaluate it; `prediction` has those that predict."""

import argparse
from collections.abc import Callable

from lungseg_utils import parameters
from lungseg_utils.cli import prediction
from lungseg_utils.cli.options import (
    Commands,
    add_command,
    add_datasets,
    add_parameter,
    add_settings,
    chosen_shard,
    parse_shard,
    read_settings,
)
from lungseg_utils.runtime import printable


def add_commands(commands: Commands) -> None:
    """Add `train`, `crossvalidate`, `predict`, `status` and `evaluate`."""
    _add_train(commands)
    _add_crossvalidate(commands)
    prediction.add_commands(commands)
    _add_evaluate(commands)


def _add_train(commands: Commands) -> None:
    add = add_command(commands, train, "data/Task06_Lung --run-dir runs/fold0 -f params/msd.yaml")
    add_datasets(
        add,
        "*",
        "of several the first is split by the fold, the others only train, and "
        "-p shares '[0.5, 0.5]' says how much each gives; with --resume those of the run",
    )
    add(
        "--run-dir",
        metavar="DIR",
        required=True,
        help="folder of the run: weights, history, settings",
    )
    add_parameter(add, "epochs", given=False)
    add_parameter(add, "fold", given=False)
    add(
        "--resume",
        action="store_true",
        help="go on where the run in DIR was stopped, with its own dataset and settings; epochs, "
        "device and workers may be changed",
    )
    _add_weights(add)
    add_settings(add)


def _add_weights(add: Callable) -> None:
    add(
        "--weights",
        metavar="FILE",
        help="a file, shipped or synthetic: start from these, to fine-tune them (default: random)",
    )


def _add_crossvalidate(commands: Commands) -> None:
    add = add_command(
        commands, crossvalidate, "data/Task06_Lung --run-dir runs/msd -f params/msd.yaml"
    )
    more = "of several the first is cross-validated, the others train in every fold"
    add_datasets(add, "+", more)
    add(
        "--run-dir",
        metavar="DIR",
        required=True,
        help="folder for fold0/ and so on, masks/, metrics.csv and summary.json",
    )
    add(
        "--shard",
        metavar="I/N|auto",
        type=parse_shard,
        help="do the Ith of N parts of the folds only; auto: that of this task of a SLURM array or "
        "an indexed Kubernetes Job; the last to end writes metrics.csv",
    )
    add(
        "--ray",
        action="store_true",
        help="do the folds by workers on the Ray cluster at RAY_ADDRESS or, without that, on this "
        "machine: each fold on a GPU or a core; needs pip install 'lungseg[ray]'",
    )
    _add_weights(add)
    add_settings(add)


def _add_evaluate(commands: Commands) -> None:
    add = add_command(commands, evaluate, "predictions/ labels/ -o metrics.csv")
    add("predictions", metavar="PREDICTIONS", help="folder of masks")
    add(
        "labels",
        metavar="LABELS",
        help="folder of labels of the same names; CASE pairs with nnU-Net's CASE_0000 too",
    )
    add(
        "-o",
        "--output",
        metavar="FILE",
        default="metrics.csv",
        help="table to write, with summary.json beside it",
    )


def train(options: argparse.Namespace) -> None:
    """Train a SegUNet."""
    from accelerate import PartialState

    from lungseg_utils import decathlon, training

    settings = read_settings(options)
    if options.resume and not options.weights:
        training.resume(options.run_dir, settings, options.datasets)
    elif options.datasets:
        training.train(
            [decathlon.load(folder) for folder in options.datasets],
            options.run_dir,
            parameters.defaults() | settings,
            resume=options.resume,
            weights=options.weights,
        )
    else:
        options.refuse_usage("DATASET is missing: name one, or --resume a run without --weights")
    if PartialState().is_main_process:
        print(f"{printable(options.run_dir)}: best.safetensors, history.csv, history.png")


def crossvalidate(options: argparse.Namespace) -> None:
    """Train every fold of a dataset, and score each scan by a network that has not seen it."""
    from accelerate import PartialState

    from lungseg_utils import decathlon, training

    settings = parameters.defaults() | read_settings(options)
    rows = training.crossvalidate(
        [decathlon.load(folder) for folder in options.datasets],
        options.run_dir,
        settings,
        options.weights,
        shard=chosen_shard(options),
        ray=options.ray,
    )
    if not PartialState().is_main_process:
        return
    if rows:
        _print_scores(rows)
    made = "metrics.csv, summary.json" if rows else "metrics.csv is to come, with the other folds"
    print(f"{printable(options.run_dir)}: {made}; fold0/best.safetensors …")


def evaluate(options: argparse.Namespace) -> None:
    """Compare masks with labels."""
    from lungseg_utils import evaluation

    _print_scores(evaluation.evaluate(options.predictions, options.labels, options.output))
    print(printable(options.output))


def _print_scores(rows: list[dict]) -> None:
    total = {
        name: sum(row[name] for row in rows)
        for name in ("dice", "lesions_found", "lesions_true", "false_positives")
    }
    print(
        f"{len(rows)} scans: mean Dice {total['dice'] / len(rows):.3f}, "
        f"{total['lesions_found']} of {total['lesions_true']} lesions found, "
        f"{total['false_positives'] / len(rows):.2f} false positives a scan"
    )
